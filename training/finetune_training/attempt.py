"""One attempt at a run: its identity, its claim, its folder, its log.

In: a job and its store. Out: an `Attempt` that nobody else has: claims are create-only objects, so two processes that
run the same job get different numbers, and the older one finds out when it commits (checkpoint.check_fence). Also what
stays the same from attempt to attempt: the job as it was first asked for, and the revision it was resolved to.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_training.failure import user_error
from finetune_training.result import RunResult
from finetune_training.spec import Job, Output, RunSpec
from finetune_training.storage import Store, local_path, open_store

RESULT = "result/metrics.json"
REPORT = "result/report.html"
RESOLVED = "resolved.json"
PACKAGES = ("finetune-training", "ray", "torch", "transformers", "trl", "peft", "deepspeed", "accelerate")
# Where and how the run is done, not what is trained: may differ between attempts.
_MAY_CHANGE: Any = {
    "resources": True,
    "checkpoint": True,
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
    """A claimed attempt. `folder`: for this attempt's logs and metrics, on this machine; it is in the store already
    when that is a local folder."""

    store: Store
    number: int
    folder: Path

    @property
    def key(self) -> str:
        return f"attempts/{self.number}"

    def keep(self) -> None:
        """Bring the logs and metrics to the store."""
        if self.store.folder is None:
            for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                self.store.upload(path, f"{self.key}/{path.relative_to(self.folder).as_posix()}")
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
    attempt = claim(store)
    for folder in ("result", "checkpoints"):
        store.delete_folder(folder)
    for number in _numbers(store):
        if number < attempt.number:
            store.delete_folder(f"attempts/{number}")
    store.delete(["job.yaml", "spec.json", RESOLVED])
    return attempt


def remember(store: Store, job: Job, job_yaml: str) -> None:
    """Keep the job as it was first asked for. Raises a User error when this one asks for something else under the same
    name."""
    asked = _essence(job.spec)
    if store.create("spec.json", json.dumps(asked, indent=2).encode()):
        store.put("job.yaml", job_yaml.encode())
        return
    changed = _changed(json.loads(store.get("spec.json") or b"{}"), asked)
    if changed:
        raise user_error(
            "JobChanged",
            f"There is a run {job.name!r} at {store.uri} already, with another {', '.join(changed)}.",
            "Give this run a metadata.name of its own, or start it anew with --fresh.",
        )


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


def claim(store: Store) -> Attempt:
    """The next attempt, claimed for this process. FINETUNE_ATTEMPT names its number on a cluster."""
    body = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}).encode()
    given = os.environ.get("FINETUNE_ATTEMPT")
    number = int(given) if given else max(_numbers(store), default=0) + 1
    while not store.create(f"attempts/{number}/claim", body):
        if store.get(f"attempts/{number}/claim") == body:  # a retry has met its own write
            break
        if given:
            raise user_error(
                "AttemptClaimed", f"Attempt {number} of {store.uri} is claimed already.", "Use a new FINETUNE_ATTEMPT."
            )
        number += 1
    local = store.folder
    folder = local / "attempts" / str(number) if local else Path(tempfile.mkdtemp(prefix="finetune-attempt-"))
    return Attempt(store, number, folder)


def _numbers(store: Store) -> list[int]:
    return sorted(int(name) for name in store.folders("attempts") if name.isdigit())


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
    changes = {"dataset": dataset, "model": model, "output": outputs}
    return job.model_copy(update={"spec": spec.model_copy(update=changes)})


def _check_outputs(model_uri: str, outputs: list[Output]) -> None:
    """An artifact replaces what lies in its folder: it must not be the base model's, or another output's."""
    taken = {_place(model_uri)}
    for number, output in enumerate(outputs):
        if output.uri and _place(output.uri) in taken:
            raise user_error(
                "OutputOverwrites",
                f"spec.output[{number}].uri: {output.uri} is the base model's folder or another output's.",
                "Give each output a folder of its own.",
            )
        taken.add(_place(output.uri))


def _place(uri: str) -> str:
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
