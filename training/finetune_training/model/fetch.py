"""A model's URI → a folder on this machine that transformers can load.

In: `hf://owner/name` with a revision, `s3://`, `gs://`, `az://`, or a local folder. Out: the folder, and the revision
that names its content for good. One rule chooses the files, wherever they lie (modelfiles.py). This room knows no model:
it imports neither torch nor transformers, because processes that need only a tokenizer come here too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from finetune_training.contract.environment import CACHE
from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import ModelSpec
from finetune_training.model import hub
from finetune_training.model.modelfiles import TEMPLATES, Parts, choose_files
from finetune_training.store.storage import SCHEMES, Entry, Store, local_path, open_store


@dataclass(frozen=True)
class FetchedModel:
    """A model's folder. `revision` names the content: the commit on a hub, a digest of what a store says of the files,
    nothing for a local folder."""

    folder: Path
    revision: str


def default_cache() -> Path:
    """Where models of other machines are kept: FINETUNE_CACHE, else a folder in the home directory."""
    return Path(os.environ.get(CACHE) or "~/.cache/finetune/models").expanduser().absolute()


def fetch_model(spec: ModelSpec, *, cache: Path, parts: Parts = Parts.MODEL) -> FetchedModel:
    """The model that `spec` names, fetched into `cache` unless it is a local folder or there already. Several processes
    may do this at the same time."""
    scheme = urlsplit(spec.uri).scheme if "://" in spec.uri else "file"
    if scheme == "hf":
        return FetchedModel(*hub.fetch_snapshot(spec, cache / "hub", parts))
    if scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in ("hf", *SCHEMES))
        raise user_error(
            "UnknownScheme", f"{spec.uri}: no model can be fetched by {scheme}://.", f"Use one of {known}, or a folder."
        )
    if spec.revision:
        raise user_error(
            "RevisionNotUsed", f"{spec.uri} has no revisions.", "Remove spec.model.revision: it is for hf:// models."
        )
    folder = local_path(spec.uri)
    return (
        _in_place(folder, spec, parts) if folder is not None else _from_store(open_store(spec.uri), spec, cache, parts)
    )


def fetch_tokenizer(spec: ModelSpec, *, cache: Path) -> FetchedModel:
    """The same folder without weights: enough for a tokenizer and a config."""
    return fetch_model(spec, cache=cache, parts=Parts.TOKENIZER)


def _in_place(folder: Path, spec: ModelSpec, parts: Parts) -> FetchedModel:
    if not folder.is_dir():
        raise user_error(
            "ModelNotFound",
            f"There is no model folder {folder}.",
            "Mend spec.model.uri: it is relative to the folder in which the command runs. A model of a hub is hf://owner/name.",
        )
    names = [path.relative_to(folder).as_posix() for path in folder.iterdir() if path.is_file()]
    choose_files(names, uri=spec.uri, parts=parts, remote_code=spec.trust_remote_code)
    return FetchedModel(folder, "")


def _from_store(store: Store, spec: ModelSpec, cache: Path, parts: Parts) -> FetchedModel:
    entries = {entry.key: entry for entry in (*store.files(), *store.files(f"{TEMPLATES}/"))}
    if not entries:
        raise user_error("ModelNotFound", f"There is nothing at {spec.uri}.", "Mend spec.model.uri.")
    names = choose_files(list(entries), uri=spec.uri, parts=parts, remote_code=spec.trust_remote_code)
    wanted = [entries[name] for name in names]
    lines = [store.uri, *(f"{entry.key} {entry.size} {entry.e_tag}" for entry in wanted)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:40]
    folder = cache / "stores" / digest
    with _only_one(folder):
        if not folder.is_dir():
            _download(store, wanted, folder)
    return FetchedModel(folder, digest)


def _download(store: Store, entries: list[Entry], folder: Path) -> None:
    """All or nothing: the folder gets its name when it is whole."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    with ThreadPoolExecutor(max_workers=4) as threads:
        for done in [threads.submit(store.download, entry.key, partial / entry.key) for entry in entries]:
            done.result()
    partial.rename(folder)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One process of this machine at a time. The kernel ends the lock with the process that holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
