"""URIs → folders in object stores.

In: `s3://…`, `gs://…`, `az://…`, `file://…` or a path. Out: a `Store`: list, get, put, create-only put, upload,
download, all below that folder, through one library (obstore) for every scheme. Credentials and endpoints come from the
usual variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …). Every error leaves as a `FinetuneError` that names the URI:
credentials and a missing bucket are the user's, the rest is infrastructure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from finetune_training.failure import FinetuneError, infrastructure_error, user_error

SCHEMES = ("s3", "gs", "az", "file")
# obstore retries 5xx, 429, resets and timeouts with jittered backoff for this long.
RETRY_TIMEOUT = timedelta(seconds=120)
_BIG = 2**20


@dataclass(frozen=True)
class Entry:
    """One object. `key` is relative to the store it was listed from."""

    key: str
    size: int


@dataclass(frozen=True)
class Store:
    """A folder in an object store."""

    uri: str
    retry_timeout: timedelta = RETRY_TIMEOUT

    @cached_property
    def _client(self) -> ObjectStore:
        with _translated(self.uri):
            path = local_path(self.uri)
            if path is not None:
                path.mkdir(parents=True, exist_ok=True)
                return LocalStore(path, mkdir=True)
            return from_url(
                self.uri,
                client_options=_client_options(),
                retry_config={"max_retries": 10, "retry_timeout": self.retry_timeout},
            )

    def child(self, *parts: str) -> Store:
        """The folder `parts` below this one."""
        return Store("/".join([self.uri.rstrip("/"), *(part.strip("/") for part in parts)]), self.retry_timeout)

    @property
    def folder(self) -> Path | None:
        """This folder as a local path, or None when it is in a remote store."""
        return local_path(self.uri)

    def entries(self, prefix: str = "") -> list[Entry]:
        """All objects below `prefix`, sorted by key."""
        with _translated(self._at(prefix)):
            found = [entry for batch in obstore.list(self._client, prefix=prefix or None) for entry in batch]
        return sorted((Entry(str(entry["path"]), int(entry["size"])) for entry in found), key=lambda entry: entry.key)

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, sorted."""
        with _translated(self._at(prefix)):
            found = obstore.list_with_delimiter(self._client, prefix=prefix or None)
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        try:
            with _translated(self._at(key)):
                return bytes(obstore.get(self._client, key).bytes())
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        with _translated(self._at(key)):
            obstore.put(self._client, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only when there is none yet (S3: `If-None-Match: *`). False: there was one."""
        try:
            with _translated(self._at(key)):
                obstore.put(self._client, key, data, mode="create")
                return True
        except exceptions.AlreadyExistsError:
            return False

    def upload(self, path: Path, key: str) -> None:
        """Write the file at `path`, in parallel parts when it is large."""
        with _translated(self._at(key)):
            obstore.put(
                self._client,
                key,
                path,
                use_multipart=path.stat().st_size > 8 * _BIG,
                chunk_size=8 * _BIG,
                max_concurrency=4,
            )

    def download(self, key: str, path: Path) -> None:
        """Fetch an object to `path`: the file is there whole or not at all. Raises FileNotFoundError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with _translated(self._at(key)):
            with partial.open("wb") as file:
                for chunk in obstore.get(self._client, key).stream(min_chunk_size=4 * _BIG):
                    file.write(chunk)
            partial.rename(path)

    def delete(self, keys: list[str]) -> None:
        """Delete objects. Those that are gone already do not matter."""
        for key in keys:
            try:
                with _translated(self._at(key)):
                    obstore.delete(self._client, key)
            except FileNotFoundError:
                continue

    def probe(self) -> None:
        """Write and delete a small object, so that a store that cannot be written is found before any work is done."""
        quick = Store(self.uri, timedelta(seconds=5))
        key = f".probe-{os.getpid()}"
        quick.put(key, b"finetune")
        quick.delete([key])

    def _at(self, key: str) -> str:
        return f"{self.uri.rstrip('/')}/{key}" if key else self.uri


def open_store(uri: str) -> Store:
    """The folder at `uri`. Raises a User error for a scheme that no store has; connects at first use."""
    scheme = urlsplit(uri).scheme if "://" in uri else "file"
    if scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise user_error(
            "UnknownScheme", f"{uri}: there is no store for {scheme}://.", f"Use one of {known}, or a path."
        )
    path = local_path(uri)
    return Store(str(path) if path is not None else uri.rstrip("/"))


def local_path(uri: str) -> Path | None:
    """The absolute path behind a local URI or path, None for a remote one."""
    if uri.startswith("file://"):
        return Path(urlsplit(uri).path)
    return None if "://" in uri else Path(uri).expanduser().absolute()


def endpoint() -> str | None:
    """The S3 endpoint of the environment, when it is not AWS's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _client_options() -> Any:
    return {"allow_http": (endpoint() or "").startswith("http://"), "connect_timeout": "5s", "timeout": "60s"}


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """obstore's errors → FinetuneErrors that name `uri`. FileNotFoundError and AlreadyExistsError are answers, and
    pass."""
    try:
        yield
    except (FinetuneError, FileNotFoundError, exceptions.AlreadyExistsError):
        raise
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
        raise user_error(
            "StoreAccessDenied", f"{uri}: access denied.", _access_remedy(uri), detail=_short(error)
        ) from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        text = str(error)
        if "NoSuchBucket" in text:
            raise user_error(
                "NoSuchBucket", f"{uri}: there is no such bucket.", "Create the bucket, or mend the URI."
            ) from error
        if any(
            code in text for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied")
        ):
            raise user_error(
                "StoreAccessDenied", f"{uri}: access denied.", _access_remedy(uri), detail=_short(error)
            ) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if any(known in text for known in ("No space left on device", "os error 28")):
            raise infrastructure_error(
                "DiskFull", f"{uri}: no space left on device.", "Free space, then run the same command again."
            ) from error
        if any(
            known in text
            for known in (
                "Read-only file system",
                "Permission denied",
                "Not a directory",
                "os error 13",
                "os error 20",
                "os error 30",
            )
        ):
            raise user_error(
                "StoreUnwritable",
                f"{uri} cannot be written.",
                "Choose another checkpoint.uri, or mend its permissions.",
                detail=_short(error),
            ) from error
        raise infrastructure_error(
            "StoreUnavailable", f"{uri}: the store does not answer as it should: {_short(error)}", _endpoint_remedy(uri)
        ) from error


def _short(error: BaseException) -> str:
    """An obstore error's first line: it carries a debug dump after it."""
    return str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__


def _access_remedy(uri: str) -> str:
    if uri.startswith("s3://"):
        return "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), and what they may do in this bucket."
    return (
        "Check the credentials in the environment and what they may do there."
        if "://" in uri
        else "Check the folder's permissions."
    )


def _endpoint_remedy(uri: str) -> str:
    where = endpoint()
    return (
        f"Check that {where} (AWS_ENDPOINT_URL) is reachable."
        if uri.startswith("s3://") and where
        else "Check the network, then run the same command again."
    )
