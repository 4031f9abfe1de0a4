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
from finetune_training.spec import Job, RunSpec
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


def start_anew(store: Store) -> None:
    """Forget all attempts, checkpoints and results of a run. Prepared data stays: its name says what is in it."""
    for folder in ("result", "checkpoints", "attempts"):
        store.delete_folder(folder)
    store.delete(["job.yaml", "spec.json", RESOLVED])


def remember(store: Store, job: Job, job_yaml: str) -> None:
    """Keep the job as it was first asked for. Raises a User error when this one asks for something else under the same
    name."""
    asked = _essence(job.spec)
    if store.create("job.yaml", job_yaml.encode()):
        store.put("spec.json", json.dumps(asked, indent=2).encode())
        return
    first = json.loads(store.get("spec.json") or b"{}")
    changed = sorted(_changed(first, asked)) if first else []
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
    number = (
        int(given) if given else max((int(name) for name in store.folders("attempts") if name.isdigit()), default=0) + 1
    )
    while not store.create(f"attempts/{number}/claim", body):
        if given:
            raise user_error(
                "AttemptClaimed", f"Attempt {number} of {store.uri} is claimed already.", "Use a new FINETUNE_ATTEMPT."
            )
        number += 1
    local = store.folder
    folder = local / "attempts" / str(number) if local else Path(tempfile.mkdtemp(prefix="finetune-attempt-"))
    return Attempt(store, number, folder)


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
    return job.model_copy(update={"spec": spec.model_copy(update={"dataset": dataset, "model": model})})


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
