"""The checkpoint protocol: what makes a step that was reached stay reached.

In: a function that writes this rank's files to a local folder. Out: `checkpoints/step-00000500-a2/` in the store. Each
rank stages on local disk and uploads in the background; training waits only when the previous upload has not finished.
When every rank's files are in the store, rank 0 writes the manifest, create-only and last: no manifest, no checkpoint.
Loading verifies every file, and falls back to the checkpoint before (design, section 4, promises 1 to 4).
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from finetune_training.failure import Failure, FailureClass, FinetuneError, classify, user_error
from finetune_training.progress import CheckpointSaved, Event, Warned
from finetune_training.result import Scores
from finetune_training.shards import sha256_of
from finetune_training.storage import Store
from finetune_training.world import World

FOLDER = "checkpoints"
_MUST_AGREE = {
    "world_size": "number of ranks",
    "zero_stage": "ZeRO stage",
    "method": "method",
    "seed": "seed",
    "global_batch_size": "global batch size",
    "data_fingerprint": "data fingerprint",
}
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8})-a(\d+)")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class CheckpointFile(_Record):
    """One file; `name` is relative to the checkpoint's folder."""

    name: str
    bytes: int
    sha256: str


class Facts(_Record):
    """What a checkpoint depends on. One that differs in more than the attempt and the versions cannot be loaded as it
    is."""

    attempt: int
    world_size: int
    zero_stage: int
    method: str
    seed: int
    global_batch_size: int
    data_fingerprint: str
    versions: dict[str, str]


class CheckpointManifest(_Record):
    """The proof of a checkpoint. `samples`: packed samples used so far; `baseline`: the base model's scores, found once
    per run."""

    step: int
    samples: int
    facts: Facts
    files: list[CheckpointFile]
    baseline: Scores | None
    created: float


@dataclass(frozen=True)
class Restored:
    """A verified checkpoint on this node's disk."""

    folder: Path
    manifest: CheckpointManifest
    uri: str


def committed(store: Store) -> list[str]:
    """Names of the checkpoints in `store` (a run's folder) that have a manifest, newest first: those of the newest
    attempt come before all others, because it began anew from what it could load."""
    found = {entry.key.split("/")[1] for entry in store.entries(FOLDER) if entry.key.endswith(f"/{MANIFEST}")}
    named = [(match, name) for name in found if (match := _NAME.fullmatch(name))]
    return [name for _, name in sorted(named, key=lambda pair: (int(pair[0][2]), int(pair[0][1])), reverse=True)]


class Checkpointer:
    """One rank's side of saving. All methods but the constructor are collective: every rank calls them at the same
    step."""

    def __init__(
        self, store: Store, *, facts: Facts, world: World, staging: Path, keep: int, report: Callable[[Event], object]
    ) -> None:
        self._store, self._facts, self._world = store, facts, world
        self._staging, self._keep, self._report = staging, keep, report
        self._uploads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-upload")
        self._pending: _Pending | None = None
        self.last_step: int | None = None
        self.blocked_seconds = 0.0

    def save(self, step: int, write: Callable[[Path], None], *, samples: int, baseline: Scores | None) -> None:
        """Write this rank's files with `write` and start their upload. Waits for the previous upload first."""
        started = time.perf_counter()
        self.flush()
        name = f"step-{step:08d}-a{self._facts.attempt}"
        folder = self._staging / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        draft = CheckpointManifest(
            step=step, samples=samples, facts=self._facts, files=[], baseline=baseline, created=time.time()
        )
        blocked = time.perf_counter() - started
        self.blocked_seconds += blocked
        self._pending = _Pending(name, draft, self._uploads.submit(self._upload, name, folder), blocked)
        self.last_step = step

    def poll(self) -> None:
        """Commit the pending checkpoint if every rank's upload is done. Cheap; call it after each step."""
        if self._pending and all(self._world.gather(self._pending.upload.done())):
            self._commit(self._pending)

    def flush(self) -> None:
        """Wait for the pending checkpoint and commit it."""
        if self._pending:
            self._commit(self._pending)

    def close(self) -> None:
        self._uploads.shutdown(wait=True)

    def _upload(self, name: str, folder: Path) -> list[CheckpointFile]:
        files = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = path.relative_to(folder).as_posix()
            files.append(CheckpointFile(name=relative, bytes=path.stat().st_size, sha256=sha256_of(path)))
            self._store.upload(path, f"{FOLDER}/{name}/{relative}")
        shutil.rmtree(folder)
        return files

    def _commit(self, pending: _Pending) -> None:
        self._pending = None
        parts = self._world.gather(_outcome(pending.upload, self._world.rank))
        failed = next((part for part in parts if isinstance(part, Failure)), None)
        if failed:
            raise FinetuneError(failed)
        files = [file for part in parts if isinstance(part, list) for file in part]
        problem = self._publish(pending, files) if self._world.rank == 0 else None
        problem = self._world.gather(problem)[0]
        if problem:
            raise FinetuneError(problem)

    def _publish(self, pending: _Pending, files: list[CheckpointFile]) -> Failure | None:
        try:
            check_fence(self._store, self._facts.attempt)
            manifest = pending.draft.model_copy(update={"files": files})
            key = f"{FOLDER}/{pending.name}/{MANIFEST}"
            body = manifest.model_dump_json(by_alias=True, indent=2).encode()
            if not self._store.create(key, body) and self._store.get(key) != body:  # a retry may meet its own write
                return _fenced(f"{self._store.uri}/{key} exists already")
            size = sum(file.bytes for file in files)
            uri = f"{self._store.uri}/{FOLDER}/{pending.name}"
            self._report(CheckpointSaved(manifest.step, uri, size, pending.blocked_seconds))
            self._prune_or_warn()
        except Exception as error:  # every rank must hear of it, or the others would wait for ever
            return classify(error, rank=0)
        return None

    def _prune_or_warn(self) -> None:
        """What is committed stays committed: old checkpoints that cannot be deleted now are deleted next time."""
        try:
            self._prune()
        except FinetuneError as error:
            self._report(Warned(f"Old checkpoints could not be deleted: {error}"))

    def _prune(self) -> None:
        """Delete all but the newest: the manifest first, so that a half-deleted checkpoint is none."""
        for name in committed(self._store)[self._keep :]:
            manifest = f"{FOLDER}/{name}/{MANIFEST}"
            self._store.delete([manifest])
            self._store.delete_folder(f"{FOLDER}/{name}")


@dataclass(frozen=True)
class _Pending:
    name: str
    draft: CheckpointManifest
    upload: Future[list[CheckpointFile]]
    blocked_seconds: float


def restore(
    store: Store, *, facts: Facts, world: World, cache: Path, report: Callable[[Event], object]
) -> Restored | None:
    """The newest checkpoint whose files verify, on every node. Collective. One that is damaged is skipped with a
    warning; one that another world size or stage wrote is a User error that says what to do."""
    names = world.gather(committed(store) if world.rank == 0 else [])[0]
    for name in names:
        result = _fetch(store, name, cache) if world.local_rank == 0 else None
        outcomes = world.gather(result)
        problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if not problems:
            manifest = next(outcome for outcome in outcomes if isinstance(outcome, CheckpointManifest))
            _check_fit(manifest.facts, facts, name)
            return Restored(_local_folder(store, name, cache), manifest, f"{store.uri}/{FOLDER}/{name}")
        if world.rank == 0:
            report(Warned(f"Checkpoint {name} is damaged and skipped: {problems[0]}"))
    return None


def check_fence(store: Store, attempt: int) -> None:
    """Raises a Fenced error when a newer attempt has claimed the run."""
    newest = max((int(name) for name in store.folders("attempts") if name.isdigit()), default=attempt)
    if newest > attempt:
        raise FinetuneError(_fenced(f"attempt {newest} has taken over from attempt {attempt}"))


def _fenced(what: str) -> Failure:
    return Failure(
        FailureClass.FENCED,
        "Fenced",
        f"This attempt stops: {what}.",
        "The newer attempt goes on from the last checkpoint.",
    )


def _local_folder(store: Store, name: str, cache: Path) -> Path:
    return store.folder / FOLDER / name if store.folder else cache / name


def _fetch(store: Store, name: str, cache: Path) -> CheckpointManifest | str:
    """The manifest of a checkpoint whose files are now on this node and verified, or what is wrong with it."""
    folder = _local_folder(store, name, cache)
    try:
        text = store.get(f"{FOLDER}/{name}/{MANIFEST}")
        if text is None:
            return "its manifest is gone"
        manifest = CheckpointManifest.model_validate_json(text)
        for file in manifest.files:
            path = folder / file.name
            if not store.folder:
                store.download(f"{FOLDER}/{name}/{file.name}", path)
            if path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
                return f"{file.name} is not what the manifest says"
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return manifest


def _check_fit(then: Facts, now: Facts, name: str) -> None:
    for field, what in _MUST_AGREE.items():
        if getattr(then, field) != getattr(now, field):
            raise user_error(
                "CheckpointDoesNotFit",
                f"Checkpoint {name} has another {what}: {getattr(then, field)}; this attempt has {getattr(now, field)}.",
                "Run it as it was (the number of ranks is --workers), or start anew with --fresh.",
            )


def _outcome(upload: Future[list[CheckpointFile]], rank: int) -> list[CheckpointFile] | Failure:
    try:
        return upload.result()
    except Exception as error:  # carried to every rank by value
        failure = classify(error, rank=rank)
        message = f"Rank {rank} could not save its part of the checkpoint: {failure.message}"
        return Failure(failure.cls, failure.reason, message, failure.remedy, failure.detail, rank)
