"""The temporary folder, looked at before anything is put there.

In: TMPDIR and RAY_TMPDIR. Out: a User error that names the variable and its folder when it cannot be used; for Ray a path to it
that is short enough. Ray puts its sockets there, and the path of a socket has 107 bytes on Linux, of which Ray needs two thirds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_training.contract.failure import FinetuneError, Reason, infrastructure_error, user_error

SYSTEM = Path("/tmp")
"""Where Python and Ray go without a variable, and where a short path begins."""
VARIABLES = ("RAY_TMPDIR", "TMPDIR")
"""In the order in which Ray looks. Python knows the second only."""
_NEEDED = 64 * 2**20
"""Ray's session with its logs takes some ten MiB; less than this is no room for data either."""
_SOCKET = 107
_BELOW = len(b"/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store.00")
"""What Ray adds, with the longest number of a process."""


def check_scratch() -> None:
    """Raises a User error for a temporary folder that cannot be used, an Infrastructure error for one without space."""
    for name in VARIABLES:
        if said := os.environ.get(name):
            _check(Path(said), name)
    if not os.environ.get("TMPDIR"):
        _check(SYSTEM, "TMPDIR (not set)")


@contextmanager
def ray_folder() -> Iterator[str]:
    """Ray's folder for what is temporary. Where the path is too long, by a link in /tmp: the bytes stay on the disk that was
    chosen."""
    check_scratch()
    name = next((name for name in VARIABLES if os.environ.get(name)), "TMPDIR")
    folder = os.environ.get(name) or str(SYSTEM)
    if len(os.fsencode(folder)) + _BELOW <= _SOCKET:
        yield os.path.join(folder, "ray")
        return
    try:
        short = tempfile.mkdtemp(prefix="ft-", dir=SYSTEM)
    except OSError as error:
        raise _too_long(name, folder, error) from error
    try:
        os.symlink(folder, os.path.join(short, "t"))
        yield os.path.join(short, "t", "ray")
    finally:
        shutil.rmtree(short, ignore_errors=True)  # the link, not what it leads to


def _check(folder: Path, name: str) -> None:
    if not folder.is_absolute():
        raise _unusable(name, folder, "is no absolute path: other processes would take it for another folder")
    if not folder.is_dir():
        raise _unusable(name, folder, "is no folder" if folder.exists() else "does not exist")
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"finetune")
    except PermissionError as error:
        raise _unusable(name, folder, "cannot be written") from error
    except OSError as error:
        if error.filename is None:  # a write that fails says not where
            error.filename = str(folder)
        raise
    if free < _NEEDED:
        raise infrastructure_error(
            Reason.DISK_FULL,
            f"{name}: {folder} has {free / 2**20:.0f} MiB left, and at least {_NEEDED / 2**20:.0f} MiB are needed.",
            "Free space there, or set TMPDIR to a folder on another disk, then run the same command again.",
        )


def _unusable(name: str, folder: Path, why: str) -> FinetuneError:
    return user_error(
        "TemporaryFolderUnusable",
        f"{name}: {folder} {why}.",
        f"Set {name.split()[0]} to a folder that can be written, or unset it.",
    )


def _too_long(name: str, folder: str, error: OSError) -> FinetuneError:
    return user_error(
        "TemporaryFolderUnusable",
        f"{name}: {folder} is too long for Ray, whose sockets lie there: their paths may have {_SOCKET} bytes.",
        f"Set {name} to a folder of at most {_SOCKET - _BELOW} bytes.",
        detail=f"No link to it could be made in {SYSTEM}: {error}",
    )
