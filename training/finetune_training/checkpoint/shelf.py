"""A run's checkpoints, as a person sees and handles them: which there are, whether they are whole, away with them.

In: a run's folder, and names as people give them: `step-00000500-a2`, `500`, `latest`, `best`. Out: plain values for the
terminal. Every byte that is verified is read where it lies, in pieces: nothing is copied to this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune_training.checkpoint.lineage import committed, forget, turns
from finetune_training.checkpoint.manifest import FOLDER, CheckpointFile, CheckpointManifest, parse_name, read_manifest
from finetune_training.checkpoint.retention import Kept, best_of
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.failure import user_error
from finetune_training.contract.jobfile import read_job
from finetune_training.store.storage import Store, open_store

_FILES = 4
_PIECE = 8 * 2**20


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint that counts. `manifest`: or what is wrong with it. `is_best`: it has the lowest held-out loss."""

    name: str
    manifest: CheckpointManifest | str
    is_best: bool

    @property
    def turn(self) -> Turn:
        return self._parsed[0]

    @property
    def step(self) -> int:
        return self._parsed[1]

    @property
    def _parsed(self) -> tuple[Turn, int]:
        place = parse_name(self.name)
        assert place, self.name
        return place

    @property
    def bytes(self) -> int:
        return 0 if isinstance(self.manifest, str) else self.manifest.bytes


def run_at(target: str) -> Store:
    """The folder of the run that a job's file or a URI stands for."""
    if target.endswith((".yaml", ".yml")):
        job = read_job(Path(target))
        return open_store(job.spec.checkpoint.uri).child(job.path)
    store = open_store(target)
    if not turns(store):
        raise user_error(
            "RunNotFound",
            f"There is no run at {store.uri}: it has no attempts/.",
            "Name a job's file, or the run's own folder: the one with attempts/ and checkpoints/ in it.",
        )
    return store


def checkpoints(store: Store) -> list[StoredCheckpoint]:
    """Those that count, newest first."""
    manifests = {name: read_manifest(store, name) for name in committed(store)}
    best = best_of([Kept(name, each.reached.score) for name, each in manifests.items() if not isinstance(each, str)])
    return [StoredCheckpoint(name, each, best is not None and name == best.name) for name, each in manifests.items()]


def chosen(found: Sequence[StoredCheckpoint], word: str, *, uri: str) -> StoredCheckpoint:
    """The one that `word` means. Raises a User error when there is none, or more than one."""
    match word:
        case "latest":
            matching = list(found[:1])
        case "best":
            matching = [each for each in found if each.is_best]
        case _:
            matching = [each for each in found if word == each.name or (word.isdigit() and int(word) == each.step)]
    if len(matching) > 1:
        names = ", ".join(each.name for each in matching)
        raise user_error("CheckpointAmbiguous", f"Several checkpoints have step {word}: {names}.", "Give a whole name.")
    if not matching:
        why = "none was evaluated at its very step" if word == "best" and found else ""
        names = ", ".join(each.name for each in found) or "none"
        raise user_error(
            "CheckpointNotFound",
            f"{uri} has no checkpoint {word!r}{': ' + why if why else ''}.",
            f"Those that count: {names}.",
        )
    return matching[0]


def problems(store: Store, checkpoint: StoredCheckpoint) -> list[str]:
    """What is wrong with it, a line for each file. Reads all of it; raises only when the store cannot be read."""
    if isinstance(checkpoint.manifest, str):
        return [checkpoint.manifest]
    folder = store.child(FOLDER, checkpoint.name)
    with ThreadPoolExecutor(_FILES, thread_name_prefix="verify") as pool:
        return [found for found in pool.map(partial(_problem, folder), checkpoint.manifest.files) if found]


def delete(store: Store, words: Sequence[str], *, force: bool) -> tuple[list[StoredCheckpoint], list[StoredCheckpoint]]:
    """Delete them. Returns what is deleted and what is left. Raises a User error, before anything is deleted, when none
    would be left and it is not forced."""
    found = checkpoints(store)
    doomed = list({each.name: each for each in (chosen(found, word, uri=store.uri) for word in words)}.values())
    left = [each for each in found if each not in doomed]
    if not left and not force:
        raise user_error(
            "LastCheckpoint",
            f"Nothing would be left of {store.uri} to go on from: it has no other checkpoint.",
            "Use --force if that is what you want.",
        )
    for each in doomed:
        # What it retires and is not gone yet would count again without it.
        retired = [] if isinstance(each.manifest, str) else each.manifest.retires
        for name in [*retired, each.name]:
            forget(store, name)
    return doomed, left


def _problem(folder: Store, file: CheckpointFile) -> str:
    entry = folder.head(file.name)
    if entry is None:
        return f"{file.name} is missing"
    if entry.size != file.bytes:
        return f"{file.name} has {entry.size:,} bytes instead of {file.bytes:,}"
    digest = hashlib.sha256()
    try:
        for start in range(0, file.bytes, _PIECE):
            digest.update(folder.get_range(file.name, start=start, length=min(_PIECE, file.bytes - start)))
    except FileNotFoundError:  # deleted meanwhile
        return f"{file.name} is missing"
    return "" if digest.hexdigest() == file.sha256 else f"{file.name} is damaged: its sha256 is not the manifest's"
