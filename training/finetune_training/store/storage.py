"""URIs → folders in object stores.

In: `s3://…`, `gs://…`, `az://…`, `file://…` or a path. Out: a `Store`: list, get, put, create-only put, upload,
download, all below that folder, through one library (obstore) for every scheme. Credentials and endpoints come from the
usual variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …). Every error leaves as a `FinetuneError` that names the URI:
credentials and a missing bucket are the user's, the rest is infrastructure.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from finetune_training.contract.environment import STORE_PATIENCE_SECONDS
from finetune_training.contract.failure import user_error
from finetune_training.store.store_failures import check_endpoint, endpoint, translated, unwritable

SCHEMES = ("s3", "gs", "az", "file")
_PATIENCE_SECONDS, _RETRY_SECONDS = 600.0, 120.0
# What obstore tries by itself for one request of a quick store.
_QUICK = timedelta(seconds=20)
_BIG = 2**20


def patience() -> float:
    """Seconds for which a store may fail without a break before a checkpoint, and with it the attempt, does."""
    try:
        return float(os.environ.get(STORE_PATIENCE_SECONDS, _PATIENCE_SECONDS))
    except ValueError:
        raise user_error(
            "InvalidPatience",
            f"{STORE_PATIENCE_SECONDS} is no number: {os.environ[STORE_PATIENCE_SECONDS]!r}.",
            "Write seconds.",
        ) from None


def _retry_timeout() -> timedelta:
    """For this long obstore itself retries 5xx, 429, resets and timeouts, with jittered backoff."""
    return timedelta(seconds=min(patience(), _RETRY_SECONDS))


@dataclass(frozen=True)
class Entry:
    """One object. `key` is relative to the store it was listed from; `e_tag` changes with the content."""

    key: str
    size: int
    e_tag: str = ""

    @classmethod
    def of(cls, meta: Any) -> Entry:
        return cls(str(meta["path"]), int(meta["size"]), str(meta["e_tag"] or meta["last_modified"]))


@dataclass(frozen=True)
class Store:
    """A folder in an object store."""

    uri: str
    retry_timeout: timedelta = field(default_factory=_retry_timeout)

    @cached_property
    def _client(self) -> ObjectStore:
        with translated(self.uri):
            path = local_path(self.uri)
            if path is not None:
                _make_folder(path)
                return LocalStore(path)
            if self.uri.startswith("s3://"):
                check_endpoint()
            return from_url(
                self.uri,
                client_options=_client_options(),
                # Time is the bound: ten retries are over in two seconds when connections are refused.
                retry_config={"max_retries": 1000, "retry_timeout": self.retry_timeout},
            )

    def __reduce__(self) -> tuple[type[Store], tuple[str, timedelta]]:
        """Other processes connect for themselves."""
        return (Store, (self.uri, self.retry_timeout))

    @property
    def quick(self) -> Store:
        """The same, with a client that soon comes back when it fails."""
        return replace(self, retry_timeout=min(self.retry_timeout, _QUICK))

    def child(self, *parts: str) -> Store:
        """The folder `parts` below this one."""
        return Store("/".join([self.uri.rstrip("/"), *(part.strip("/") for part in parts)]), self.retry_timeout)

    @property
    def folder(self) -> Path | None:
        """This folder as a local path, or None when it is in a remote store."""
        return local_path(self.uri)

    def entries(self, prefix: str = "") -> list[Entry]:
        """All objects below `prefix`, sorted by key."""
        if self._absent:
            return []
        with translated(self._at(prefix)):
            found = [entry for batch in obstore.list(self._client, prefix=prefix or None) for entry in batch]
        return sorted(map(Entry.of, found), key=lambda entry: entry.key)

    def files(self, prefix: str = "") -> list[Entry]:
        """The objects directly below `prefix`, sorted by key."""
        if self._absent:
            return []
        with translated(self._at(prefix)):
            found = obstore.list_with_delimiter(self._client, prefix=prefix or None)["objects"]
        return sorted(map(Entry.of, found), key=lambda entry: entry.key)

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, sorted."""
        if self._absent:
            return []
        with translated(self._at(prefix)):
            found = obstore.list_with_delimiter(self._client, prefix=prefix or None)
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def head(self, key: str) -> Entry | None:
        """What the store says of an object, or None when there is none."""
        if self._absent:
            return None
        try:
            with translated(self._at(key)):
                return Entry.of(obstore.head(self._client, key))
        except FileNotFoundError:
            return None

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of an object. Raises FileNotFoundError."""
        if self._absent:
            raise FileNotFoundError(self._at(key))
        with translated(self._at(key)):
            return bytes(obstore.get_range(self._client, key, start=start, length=length))

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        if self._absent:
            return None
        try:
            with translated(self._at(key)):
                return bytes(obstore.get(self._client, key).bytes())
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        with translated(self._at(key)):
            obstore.put(self._client, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only when there is none yet (S3: `If-None-Match: *`). False: there was one."""
        try:
            with translated(self._at(key)):
                obstore.put(self._client, key, data, mode="create")
                return True
        except exceptions.AlreadyExistsError:
            return False

    def upload(self, path: Path, key: str) -> None:
        """Write the file at `path`, in parallel parts when it is large. In a local folder it is on the disk afterwards."""
        with translated(self._at(key)):
            obstore.put(
                self._client,
                key,
                path,
                use_multipart=path.stat().st_size > 8 * _BIG,
                chunk_size=8 * _BIG,
                max_concurrency=4,
            )
            if self.folder:
                _sync(self.folder / key)

    def download(self, key: str, path: Path) -> None:
        """Fetch an object to `path`: the file is there whole or not at all. Raises FileNotFoundError."""
        if self._absent:
            raise FileNotFoundError(self._at(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with translated(self._at(key)):
            found = obstore.get(self._client, key)
            try:
                with partial.open("wb") as file:
                    for chunk in found.stream(min_chunk_size=4 * _BIG):
                        file.write(chunk)
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)

    def delete(self, keys: list[str]) -> None:
        """Delete objects. Those that are gone already do not matter."""
        if self._absent:
            return
        for key in keys:
            try:
                with translated(self._at(key)):
                    obstore.delete(self._client, key)
            except FileNotFoundError:
                continue

    def delete_folder(self, prefix: str) -> None:
        """Delete all objects below `prefix`."""
        folder = self.folder
        if folder is None:
            self.delete([entry.key for entry in self.entries(prefix)])
        elif (folder / prefix).is_dir():
            with translated(self._at(prefix)):
                shutil.rmtree(folder / prefix)

    def probe(self) -> None:
        """Write and delete a small object, so that a store that cannot be written is found before any work is done."""
        quick = Store(self.uri, timedelta(seconds=5))
        key = f".probe-{os.getpid()}"
        quick.put(key, b"finetune")
        quick.delete([key])

    @property
    def _absent(self) -> bool:
        """A local folder that is not there (yet): reading must not make it, as writing does."""
        return self.folder is not None and not self.folder.is_dir()

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
        path = uri.removeprefix("file://")
        if not path.startswith("/"):
            raise user_error(
                "InvalidURI", f"{uri} names a host, not a folder.", "Write file:///absolute/path, or a path."
            )
        return Path(unquote(path))
    return None if "://" in uri else Path(uri).expanduser().absolute()


def _sync(path: Path) -> None:
    """What a machine that loses power would forget, is written down."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise unwritable(str(path), str(error)) from error


def _client_options() -> Any:
    """`timeout` is for a whole body, of whatever size; a server that has stopped sending is noticed by `read_timeout`."""
    return {
        "allow_http": (endpoint() or "").startswith("http://"),
        "connect_timeout": "5s",
        "read_timeout": "60s",
        "timeout": "24h",
    }
