"""Saving: what makes a step that was reached stay reached.

In: a function that writes this rank's files to a local folder. Out: `checkpoints/step-00000500-a2/` in the store. Each
rank stages on local disk and uploads in the background; training waits only when the previous checkpoint is not there
yet. When every rank's files are in the store, rank 0 writes the manifest, create-only and last, also in the background:
no manifest, no checkpoint. The protocol, and why it holds: docs/checkpoints.md.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_training.checkpoint.lineage import check_fence, fenced, forget, leftovers
from finetune_training.checkpoint.manifest import (
    FOLDER,
    MANIFEST,
    CheckpointFile,
    CheckpointManifest,
    Facts,
    Reached,
    manifest_key,
    name_of,
    read_manifest,
)
from finetune_training.checkpoint.retention import Kept, retired
from finetune_training.checkpoint.upload import Uploader, in_background
from finetune_training.checkpoint.world import World
from finetune_training.contract.failure import Failure, FailureClass, FinetuneError, classify
from finetune_training.events.progress import CheckpointSaved, Event, Warned
from finetune_training.store.storage import Store

_LOOK_SECONDS = 0.5
"""How long a rank that has nothing to do waits before it looks how the others are."""


@dataclass(frozen=True)
class Origin:
    """What an attempt began with: the checkpoints that it could load, newest first, and the one that it has loaded."""

    inherited: list[str]
    resumed_from: str | None = None


class Checkpointer:
    """One rank's side of saving. All methods but the constructor and `close` are collective: every rank calls them at the
    same step."""

    def __init__(
        self,
        store: Store,
        *,
        facts: Facts,
        world: World,
        staging: Path,
        keep: int,
        origin: Origin,
        report: Callable[[Event], object],
    ) -> None:
        self._store, self._facts, self._world = store, facts, world
        self._staging, self._keep, self._report = staging, keep, report
        self._uploader = Uploader(store, world.rank)
        self._origin = origin
        self._kept = [Kept(name, _score(store, name)) for name in origin.inherited] if world.rank == 0 else []
        self._pending: _Pending | None = None
        self._staged_bytes = 0
        self.blocked_seconds = 0.0
        if world.rank == 0:
            in_background("checkpoint-leftovers", self._remove_leftovers)

    def save(self, write: Callable[[Path], None], reached: Reached, *, estimate: int = 0) -> None:
        """Write this rank's files with `write` and start their upload. Waits for the previous checkpoint first.
        `estimate`: bytes that this rank will write."""
        started = time.perf_counter()
        self.flush()
        name = name_of(reached.step, self._facts.turn)
        folder = self._staging / name
        self._check_disk(max(estimate, self._staged_bytes))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._staged_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        blocked = time.perf_counter() - started
        self.blocked_seconds += blocked
        upload = in_background("checkpoint-upload", lambda: self._upload(name, folder))
        self._pending = _Pending(name, reached, time.time(), blocked, upload)

    def poll(self) -> None:
        """Bring the pending checkpoint as far as it goes without waiting. Cheap; call it after each step. Raises a
        FinetuneError on every rank as soon as one has failed."""
        while self._pending:
            state = self._world.gather(_state(self._pending.work, self._world.rank))
            failure = next((each for each in state if isinstance(each, Failure)), None)
            if failure:
                self._pending = None
                raise FinetuneError(failure)
            if not all(state):
                return
            self._pending = self._next(self._pending)

    def flush(self) -> None:
        """Wait until the pending checkpoint is committed."""
        while self._pending:
            wait([self._pending.work], timeout=_LOOK_SECONDS)
            self.poll()

    def close(self) -> None:
        """Give up what is under way: a checkpoint that is pending now will never be one."""
        self._uploader.cancel()

    def _check_disk(self, needed: int) -> None:
        """All ranks stop before any of them writes: one that failed alone would leave the others in a collective."""
        self._staging.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._staging).free
        problem = _disk_full(self._staging, needed, free, self._world.rank) if free < needed else None
        problems = [each for each in self._world.gather(problem) if each]
        if problems:
            raise FinetuneError(problems[0])

    def _upload(self, name: str, folder: Path) -> list[CheckpointFile]:
        try:
            return self._uploader.folder(folder, f"{FOLDER}/{name}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _next(self, pending: _Pending) -> _Pending | None:
        """After every rank's upload comes the manifest, after that nothing."""
        if pending.committing:
            return None
        parts: list[list[CheckpointFile]] = self._world.gather(pending.work.result())
        files = [file for part in parts for file in part]
        if self._world.rank == 0:
            pending.work = in_background("checkpoint-commit", lambda: self._commit(pending, files))
        else:
            pending.work = Future()
            pending.work.set_result(None)
        pending.committing = True
        return pending

    def _commit(self, pending: _Pending, files: list[CheckpointFile]) -> None:
        kept = [Kept(pending.name, pending.reached.score), *self._kept]
        spared = [self._origin.resumed_from] if self._origin.resumed_from else []
        retires = retired(kept, keep=self._keep, spared=spared)
        manifest = CheckpointManifest(
            reached=pending.reached, facts=self._facts, files=files, retires=retires, created=pending.created
        )
        self._uploader.patiently(lambda store: self._publish(store, pending.name, manifest.to_bytes()), MANIFEST)
        self._kept = [each for each in kept if each.name not in retires]
        uri = f"{self._store.uri}/{FOLDER}/{pending.name}"
        self._report(CheckpointSaved(manifest.step, uri, manifest.bytes, pending.blocked_seconds))
        self._remove(lambda: retires)

    def _publish(self, store: Store, name: str, manifest: bytes) -> None:
        """The manifest between two looks at the claims. After the second nobody can have begun without it; only then may
        what it retires be deleted."""
        key = manifest_key(name)
        check_fence(store, self._facts.turn)
        if not store.create(key, manifest) and store.get(key) != manifest:  # a retry may meet its own write
            raise FinetuneError(fenced(f"{store.uri}/{key} exists already"))
        check_fence(store, self._facts.turn)

    def _remove_leftovers(self) -> None:
        """Of attempts that are over: what they never committed, and what was retired."""
        self._remove(lambda: leftovers(self._store, self._facts.turn, self._origin.inherited))

    def _remove(self, find: Callable[[], list[str]]) -> None:
        """What cannot be deleted now is left to the next attempt."""
        try:
            for name in find():
                forget(self._store, name)
        except (FinetuneError, OSError) as error:
            self._report(Warned(f"Old checkpoints could not be deleted: {error}"))


@dataclass
class _Pending:
    """A checkpoint on its way. `work` is the upload, then, on rank 0, the commit."""

    name: str
    reached: Reached
    created: float
    blocked_seconds: float
    work: Future[Any]
    committing: bool = False


def _state(work: Future[Any], rank: int) -> bool | Failure:
    """Whether it is done, or how it failed."""
    if not work.done():
        return False
    error = work.exception()
    return classify(error, rank=rank) if error else True


def _score(store: Store, name: str) -> float | None:
    manifest = read_manifest(store, name)
    return None if isinstance(manifest, str) else manifest.reached.score


def _disk_full(folder: Path, needed: int, free: int, rank: int) -> Failure:
    return Failure(
        FailureClass.INFRASTRUCTURE,
        "DiskFull",
        f"Rank {rank} needs {needed / 1e9:.2f} GB in {folder} for its part of a checkpoint, and {free / 1e9:.2f} GB are free.",
        "Free space on that disk, then run the same command again: it resumes from the last checkpoint.",
        rank=rank,
    )
