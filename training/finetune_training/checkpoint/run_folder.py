"""A run's folder: what stays the same from attempt to attempt.

In: a job and its store. Out: the job as it was first asked for, the revision and the data that it was resolved to, and the result
once there is one. What was asked for and what it stood for are written once: later attempts go by what the first has found.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import Job, RunSpec
from finetune_training.events.result import RunResult
from finetune_training.store.storage import Store, open_store

TRAINED = "trained"
"""What the ranks leave: an artifact that is no result yet, because it was not compared with what they have evaluated."""
RESULT = "result/metrics.json"
REPORT = "result/report.html"
RESOLVED = "resolved.json"
PACKAGES = ("finetune-training", "ray", "torch", "transformers", "trl", "peft", "deepspeed", "accelerate")
_MAY_CHANGE: Any = {
    "resources": True,
    "checkpoint": {"uri", "every_steps", "keep"},
    "training": {"micro_batch_size", "gradient_checkpointing"},
}
"""Where and how the run is done, not what is trained: may differ between attempts."""


def run_store(job: Job) -> Store:
    """The run's folder. Raises when it cannot be written."""
    store = open_store(job.spec.checkpoint.uri).child(job.path)
    store.probe()
    return store


def finished(store: Store) -> RunResult | None:
    """The result of a run that is done."""
    text = store.get(RESULT)
    return RunResult.from_json(text) if text else None


def remember(store: Store, job: Job, job_yaml: str) -> None:
    """Keep the job as it was first asked for. Raises a User error when this one asks for something else under the same
    name."""
    essence = _essence(job.spec)
    if store.create("spec.json", json.dumps(essence, indent=2).encode()):
        store.put("job.yaml", job_yaml.encode())
        return
    before = asked(store)  # a field that is newer than the run has its default there
    changed = _changed(_essence(before) if before else {}, essence)
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
class Resolution:
    """What names in the job stood for when the run began: a branch that moves or a source that grows changes no run
    under way."""

    model_revision: str
    data_fingerprint: str


def read_resolution(store: Store) -> Resolution | None:
    """What an earlier attempt resolved."""
    text = store.get(RESOLVED)
    if text is None:
        return None
    body = json.loads(text)
    return Resolution(body["model"]["revision"], body["data"]["fingerprint"])


def keep_resolution(store: Store, found: Resolution) -> None:
    """Keep what the first attempt found."""
    body = {
        "model": {"revision": found.model_revision},
        "data": {"fingerprint": found.data_fingerprint},
        "versions": versions(),
    }
    store.create(RESOLVED, json.dumps(body, indent=2).encode())


def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers."""
    return {package: metadata.version(package) for package in PACKAGES}


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
