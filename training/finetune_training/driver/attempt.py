"""One attempt at a run: its identity, its claim, its folder, its log.

In: a job and its store. Out: an `Attempt` that nobody else has: claims are create-only objects, so two processes that
run the same job get different numbers, and the older one finds out when it commits (lineage.py). An attempt whose ranks are
started again claims a new turn. Also what stays the same from attempt to attempt: the job as it was first asked for, and
the revision it was resolved to.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_training.checkpoint import lineage
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.contract.spec import Checkpoint, Job, Output, ResumeFrom, RunSpec
from finetune_training.driver.ladder import Memory
from finetune_training.events.result import RunResult
from finetune_training.store.shipping import shipped
from finetune_training.store.storage import Store, local_path, open_store

RESULT = "result/metrics.json"
REPORT = "result/report.html"
RESOLVED = "resolved.json"
METRICS = "metrics.jsonl"
PACKAGES = ("finetune-training", "ray", "torch", "transformers", "trl", "peft", "deepspeed", "accelerate")
# What a spec.json lacks that is older than the field.
_ADDED = {"checkpoint": {"resumeFrom": {"uri": ""}}}
# Where and how the run is done, not what is trained: may differ between attempts.
_MAY_CHANGE: Any = {
    "resources": True,
    "checkpoint": {"uri", "every_steps", "keep"},
    "training": {"micro_batch_size", "gradient_checkpointing"},
}


@dataclass(frozen=True)
class Request:
    """What `finetune run` was asked to do. `job` as the user wrote it, `text` the file's text."""

    job: Job
    text: str
    workers: int | None = None


@dataclass(frozen=True)
class Attempt:
    """A claimed attempt, at its newest turn. `inherited`: the checkpoints that it may load, newest first. `memory`: what the run
    was made to get by with (ladder.py), None: what its spec says. `folder`: for its logs and metrics, on this machine; it is
    in the store already when that is a local folder."""

    store: Store
    turn: Turn
    folder: Path
    inherited: list[str]
    memory: Memory | None = None

    @property
    def number(self) -> int:
        return self.turn.attempt

    @property
    def key(self) -> str:
        return f"attempts/{self.number}"

    def again(self, memory: Memory | None) -> Attempt:
        """The same attempt with a new turn, for ranks that are started again. Raises a Fenced error when a newer attempt has
        claimed the run."""
        turn = self.turn.next
        if not _claimed(self.store, turn, _claim_body(memory)):
            raise FinetuneError(lineage.fenced(f"somebody else has claimed {turn}"))
        return replace(self, turn=turn, inherited=lineage.inherit(self.store, turn), memory=memory)

    @property
    def metrics(self) -> Path:
        """Where its events are written."""
        return self.folder / METRICS

    def shipped(self) -> AbstractContextManager[None]:
        """Meanwhile logs and metrics are brought to the store as they grow."""
        return shipped(self.store, self.key, [self.folder / "driver.log", self.metrics])

    def keep_metrics(self) -> None:
        """Bring the metrics so far to the store: an attempt that is killed keeps the history of its last checkpoint."""
        if self.store.folder is None:
            self.store.put(f"{self.key}/{METRICS}", self.metrics.read_bytes())

    def keep(self) -> None:
        """Bring the logs and metrics to the store. The attempt is over and its machines wait: a store that is away is not waited
        for."""
        if self.store.folder is None:
            store = self.store.quick
            for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                store.upload(path, f"{self.key}/{path.relative_to(self.folder).as_posix()}")
            shutil.rmtree(self.folder)


def run_store(job: Job) -> Store:
    """The run's folder. Raises when it cannot be written."""
    store = open_store(job.spec.checkpoint.uri).child(job.path)
    store.probe()
    return store


def finished(store: Store) -> RunResult | None:
    """The result of a run that is done."""
    text = store.get(RESULT)
    return RunResult.from_json(text) if text else None


def start_anew(store: Store) -> Attempt:
    """Claim an attempt that is newer than all, which fences whoever still runs; then forget the earlier attempts, their
    checkpoints and results. Prepared data stays: its name says what is in it."""
    attempt = claim(store, anew=True)
    for folder in ("result", "checkpoints"):
        store.delete_folder(folder)
    for turn in lineage.turns(store):
        if turn < attempt.turn:
            store.delete_folder(f"attempts/{turn}")
    store.delete(["job.yaml", "spec.json", RESOLVED])
    return attempt


def remember(store: Store, job: Job, job_yaml: str) -> None:
    """Keep the job as it was first asked for. Raises a User error when this one asks for something else under the same
    name."""
    essence = _essence(job.spec)
    if store.create("spec.json", json.dumps(essence, indent=2).encode()):
        store.put("job.yaml", job_yaml.encode())
        return
    changed = _changed({**_ADDED, **json.loads(store.get("spec.json") or b"{}")}, essence)
    if changed:
        raise user_error(
            "JobChanged",
            f"There is a run {job.name!r} at {store.uri} already, with another {', '.join(changed)}.",
            "Give this run a metadata.name of its own, or start it anew with --fresh.",
        )


def asked(store: Store) -> RunSpec | None:
    """The spec as it was first asked for, without what may change."""
    text = store.get("spec.json")
    return RunSpec.model_validate_json(text) if text else None


@dataclass(frozen=True)
class Resolved:
    """What names in the job stood for when the run began: a branch that moves or a source that grows changes no run
    under way."""

    model_revision: str
    data_fingerprint: str


def resolved(store: Store) -> Resolved | None:
    """What an earlier attempt resolved."""
    text = store.get(RESOLVED)
    if text is None:
        return None
    body = json.loads(text)
    return Resolved(body["model"]["revision"], body["data"]["fingerprint"])


def resolve(store: Store, found: Resolved) -> None:
    """Keep what the first attempt found."""
    body = {
        "model": {"revision": found.model_revision},
        "data": {"fingerprint": found.data_fingerprint},
        "versions": versions(),
    }
    store.create(RESOLVED, json.dumps(body, indent=2).encode())


def claim(store: Store, *, anew: bool = False) -> Attempt:
    """The next attempt, claimed for this process, and what it inherits: nothing when it begins `anew`. FINETUNE_ATTEMPT names
    its number on a cluster."""
    newest = max(lineage.turns(store), default=Turn(0))
    memory = None if anew else _memory(store, newest)
    body = _claim_body(memory)
    given = os.environ.get("FINETUNE_ATTEMPT")
    turn = Turn(int(given) if given else newest.attempt + 1)
    while not _claimed(store, turn, body):
        if given:
            raise user_error(
                "AttemptClaimed", f"Attempt {turn} of {store.uri} is claimed already.", "Use a new FINETUNE_ATTEMPT."
            )
        turn = Turn(turn.attempt + 1)
    local = store.folder
    folder = local / "attempts" / str(turn) if local else Path(tempfile.mkdtemp(prefix="finetune-attempt-"))
    return Attempt(store, turn, folder, lineage.inherit(store, turn, nothing=anew), memory)


def _claimed(store: Store, turn: Turn, body: bytes) -> bool:
    """Whether `turn` is now ours."""
    key = f"attempts/{turn}/claim"
    return store.create(key, body) or store.get(key) == body  # a retry has met its own write


def _claim_body(memory: Memory | None) -> bytes:
    fields = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    return json.dumps(fields | ({"memory": memory.to_json()} if memory else {})).encode()


def _memory(store: Store, newest: Turn) -> Memory | None:
    """Of the newest turn: each takes over what the one before it had come to."""
    text = store.get(f"attempts/{newest}/claim")
    fields = json.loads(text).get("memory") if text else None
    return Memory.from_json(fields) if fields else None


def located(job: Job) -> Job:
    """The job with its local paths made absolute: ranks and tasks run in other folders."""
    spec = job.spec
    validation = spec.dataset.validation
    dataset = spec.dataset.model_copy(
        update={
            "train": [source.model_copy(update={"uri": _absolute(source.uri)}) for source in spec.dataset.train],
            "validation": validation.model_copy(update={"uri": _absolute(validation.uri)})
            if validation.uri
            else validation,
        }
    )
    model = spec.model.model_copy(update={"uri": _absolute(spec.model.uri)})
    outputs = [item.model_copy(update={"uri": _absolute(item.uri)}) if item.uri else item for item in spec.output]
    _check_outputs(model.uri, outputs)
    changes = {"dataset": dataset, "model": model, "output": outputs, "checkpoint": _located(spec.checkpoint)}
    return job.model_copy(update={"spec": spec.model_copy(update=changes)})


def _located(checkpoint: Checkpoint) -> Checkpoint:
    """`uri` is made absolute by who opens it."""
    other = checkpoint.resume_from.uri
    return checkpoint.model_copy(update={"resume_from": ResumeFrom(uri=_absolute(other))}) if other else checkpoint


def _check_outputs(model_uri: str, outputs: list[Output]) -> None:
    """An artifact replaces what lies in its folder: it must not be the base model's, or another output's."""
    taken = {place(model_uri)}
    for number, output in enumerate(outputs):
        if output.uri and place(output.uri) in taken:
            raise user_error(
                "OutputOverwrites",
                f"spec.output[{number}].uri: {output.uri} is the base model's folder or another output's.",
                "Give each output a folder of its own.",
            )
        taken.add(place(output.uri))


def place(uri: str) -> str:
    """The same text for the same folder."""
    path = local_path(uri) if uri else None
    return str(path.resolve()) if path else uri.rstrip("/")


def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers."""
    return {package: metadata.version(package) for package in PACKAGES}


def _absolute(uri: str) -> str:
    path = local_path(uri)
    return str(path) if path is not None else uri


def _essence(spec: RunSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", by_alias=True, exclude=_MAY_CHANGE)


def _changed(first: dict[str, Any], now: dict[str, Any], path: str = "spec") -> list[str]:
    """Paths of the fields that differ."""
    paths = []
    for key in sorted(first.keys() | now.keys()):
        before, after = first.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            paths += _changed(before, after, f"{path}.{key}")
        elif before != after:
            paths.append(f"{path}.{key}")
    return paths
