"""What an object store's errors mean.

In: obstore's exceptions and the operating system's, with the URI they are about. Out: the `FinetuneError` that says whose they
are: credentials, a missing bucket, an endpoint that is no URL and a folder that cannot be written are the user's, the
rest is infrastructure. Where obstore has no type for it, the S3 error code or the operating system's text decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions

from finetune_training.contract.failure import FinetuneError, Reason, infrastructure_error, user_error

_DENIED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied")
# As AWS, SeaweedFS and MinIO say it, and the operating system (EDQUOT).
_QUOTA = ("QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "Disk quota exceeded", "os error 122")
_FULL = ("No space left on device", "os error 28")
_UNWRITABLE = (
    "Read-only file system",
    "Permission denied",
    "Not a directory",
    "os error 13",
    "os error 20",
    "os error 30",
)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """obstore's errors → FinetuneErrors that name `uri`. FileNotFoundError and AlreadyExistsError are answers, and
    pass."""
    try:
        yield
    except FileNotFoundError as error:
        if "<Code>NoSuchBucket</Code>" in str(error):
            raise _no_such_bucket(uri) from error
        raise
    except (FinetuneError, exceptions.AlreadyExistsError):
        raise
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
        raise _access_denied(uri, error) from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _by_text(uri, error) from error


def _by_text(uri: str, error: BaseException) -> FinetuneError:
    text = str(error)
    if "NoSuchBucket" in text:
        return _no_such_bucket(uri)
    if any(code in text for code in _DENIED):
        return _access_denied(uri, error)
    if any(known in text for known in _QUOTA):
        return user_error(
            "StoreQuotaExceeded",
            f"{uri}: the store's quota is used up.",
            "Raise the quota or free space, then run the same command again.",
            detail=_short(error),
        )
    if any(known in text for known in _FULL):
        return infrastructure_error(
            Reason.DISK_FULL, f"{uri}: no space left on device.", "Free space, then run the same command again."
        )
    if any(known in text for known in _UNWRITABLE):
        return unwritable(uri, _short(error))
    return infrastructure_error(
        Reason.STORE_UNAVAILABLE,
        f"{uri}: the store does not answer as it should: {_short(error)}.",
        _endpoint_remedy(uri),
    )


def unwritable(uri: str, detail: str) -> FinetuneError:
    """A folder that cannot be made or written: the user's."""
    return user_error(
        "StoreUnwritable",
        f"{uri} cannot be written.",
        "Choose another checkpoint.uri, or mend its permissions.",
        detail=detail,
    )


def endpoint() -> str | None:
    """The S3 endpoint of the environment, when it is not AWS's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def check_endpoint() -> None:
    """obstore panics over an endpoint that is no URL: a User error instead."""
    where = endpoint()
    if where and not where.startswith(("http://", "https://")):
        raise user_error(
            "EndpointInvalid", f"AWS_ENDPOINT_URL is {where!r}, which is no URL.", "Write it with http:// or https://."
        )


def _no_such_bucket(uri: str) -> FinetuneError:
    return user_error("NoSuchBucket", f"{uri}: there is no such bucket.", "Create the bucket, or mend the URI.")


def _access_denied(uri: str, error: BaseException) -> FinetuneError:
    return user_error("StoreAccessDenied", f"{uri}: access denied.", _access_remedy(uri), detail=_short(error))


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
