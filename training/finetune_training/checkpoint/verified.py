"""Files of a store, on this machine's disk, each compared with what was written down of it when it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune_training.checkpoint.manifest import CheckpointFile
from finetune_training.store.digest import sha256_of
from finetune_training.store.storage import Store

_FILES = 4


def fetch(store: Store, prefix: str, files: Sequence[CheckpointFile], folder: Path) -> str:
    """Bring files below `prefix` to `folder`, several at a time, and verify them. Where the store is a folder of this machine
    they are verified in place, and `folder` is that place. Returns what is wrong with one of them, or nothing."""
    with ThreadPoolExecutor(_FILES, thread_name_prefix="fetch") as pool:
        problems = pool.map(lambda file: _fetch(store, f"{prefix}/{file.name}", file, folder / file.name), files)
        return next((problem for problem in problems if problem), "")


def folder_for(store: Store, prefix: str, cache: Path) -> Path:
    """The folder for `fetch`."""
    return store.folder / prefix if store.folder else cache / prefix


def _fetch(store: Store, key: str, file: CheckpointFile, path: Path) -> str:
    try:
        if not store.folder:
            store.download(key, path)
        if path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
            return f"{file.name} is not what the manifest says"
    except FileNotFoundError:
        return f"{file.name} is missing"
    return ""
