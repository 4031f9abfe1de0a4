"""Worlds for the tests: objects as the API server has them, and what the operator sees of them.

Every view is made from a whole object, so that a test of a decision is a test of the views too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from finetune_operator import names
from finetune_operator.api.job import FineTuneJobSpec
from finetune_operator.api.status import CurrentAttempt, FineTuneJobStatus, PastAttempt, UsageStatus
from finetune_operator.decide.books import Books
from finetune_operator.decide.picture import Fact, Picture, render_status
from finetune_operator.observe.views import view_job, view_pod, view_rayjob
from finetune_operator.observe.world import World
from finetune_operator.settings import Platform

Object = dict[str, Any]

NOW = 1_800_000_000.0
UID = "11111111-aaaa"
PLATFORM = Platform.model_validate(
    {
        "gpuPools": {
            "a100": {"gpusPerNode": 8},
            "t4": {"gpusPerNode": 1},
            "cpu": {"gpusPerNode": 0, "worker": {"cpu": "2", "memory": "4Gi"}},
        },
        "trainingImage": "registry/training:1",
        "checkpointUri": "s3://runs",
    }
)


def time(moment: float) -> str:
    """As Kubernetes writes it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spec(**changes: Any) -> Object:
    """The smallest spec with `changes`, and the defaults that the API server fills in."""
    smallest: Object = {
        "model": {"uri": "hf://owner/model"},
        "dataset": {"train": [{"uri": "s3://data/*.jsonl"}]},
        "resources": {"pool": "a100"},
    }
    filled: Object = FineTuneJobSpec.model_validate(smallest | changes).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    return filled


def job(
    name: str = "plays", *, uid: str = UID, status: Object | None = None, deleting: bool = False, **changes: Any
) -> Object:
    """A FineTuneJob. `changes` are fields of its spec."""
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": uid,
        "resourceVersion": "10",
        "generation": 1,
        "creationTimestamp": time(NOW - 60),
    }
    if deleting:
        metadata["deletionTimestamp"] = time(NOW)
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": spec(**changes)}
    return body | ({"status": status} if status else {})


def rayjob(attempt: int = 1, *, name: str = "plays", uid: str = UID, age: float = 30, **status: Any) -> Object:
    """The RayJob of an attempt. `status` is KubeRay's; `suspend` and `deleting` are the object's."""
    suspend, deleting = status.pop("suspend", False), status.pop("deleting", False)
    metadata: Object = {
        "name": names.child_name(name, attempt),
        "namespace": "team",
        "uid": f"rayjob-{uid}-{attempt}",
        "resourceVersion": "20",
        "creationTimestamp": time(NOW - age),
        "labels": names.child_labels(name, uid, attempt),
    }
    if deleting:
        metadata["deletionTimestamp"] = time(NOW)
    return {"metadata": metadata, "spec": {"suspend": suspend}, "status": status}


SUCCEEDED: Object = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete", "endTime": time(NOW)}
RUNNING: Object = {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running"}
STOPPED: Object = {"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete", "endTime": time(NOW)}
APP_FAILED: Object = {
    "jobStatus": "FAILED",
    "jobDeploymentStatus": "Failed",
    "reason": "AppFailed",
    "message": "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars): ",
    "endTime": time(NOW),
}
HEAD_LOST: Object = {
    "jobStatus": "RUNNING",
    "jobDeploymentStatus": "Failed",
    "reason": "AppFailed",
    "message": "Ray head pod not found.",
    "endTime": time(NOW),
}
SUBMISSION_FAILED: Object = {
    "jobStatus": "RUNNING",
    "jobDeploymentStatus": "Failed",
    "reason": "SubmissionFailed",
    "message": "Ray head pod container ray-job-submitter terminated with exit code 1: Error",
    "endTime": time(NOW),
}
VALIDATION_FAILED: Object = {
    "jobDeploymentStatus": "ValidationFailed",
    "reason": "ValidationFailed",
    "message": "The RayJob spec is invalid: RAY_REDIS_ADDRESS is set which implicitly enables GCS fault tolerance",
}


def replica_failure(message: str) -> Object:
    """KubeRay's status of a RayJob whose pods the API server refuses."""
    said = f"FailedCreateHeadPod\n{message}"
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod", "message": said}
    return {"jobDeploymentStatus": "Initializing", "rayClusterStatus": {"conditions": [condition]}}


def pod(
    role: str = "head",
    attempt: int = 1,
    *,
    name: str = "plays",
    uid: str = UID,
    node: str = "node-1",
    unschedulable: str = "",
    disrupted: tuple[str, str] = ("", ""),
    waiting: Iterable[Object] = (),
    ended: Iterable[Object] = (),
    runs: float | None = None,
    deleting: bool = False,
    limits: Object | None = None,
    suffix: str = "",
    **status: Any,
) -> Object:
    """A Ray pod. `waiting` and `ended` are states of its containers, `disrupted` is (reason, message), `limits` are of the
    memory of its containers. `runs`: it has run for so many seconds, and had its node for ten more."""
    scheduled = {"type": "PodScheduled", "status": "False" if unschedulable else "True"}
    running = []
    if runs is not None:
        scheduled["lastTransitionTime"] = time(NOW - runs - 10)
        container = "ray-head" if role == "head" else "ray-worker"
        running = [{"name": container, "state": {"running": {"startedAt": time(NOW - runs)}}, "ready": True}]
        status = {"phase": "Running"} | status
    if unschedulable:
        scheduled |= {"reason": "Unschedulable", "message": unschedulable}
    conditions = [scheduled]
    if any(disrupted):
        conditions.append(
            {"type": "DisruptionTarget", "status": "True", "reason": disrupted[0], "message": disrupted[1]}
        )
    metadata: Object = {
        "name": f"{names.child_name(name, attempt)}-x7k2p-{role}{suffix}",
        "namespace": "team",
        "uid": f"pod-{uid}-{attempt}-{role}{suffix}",
        "resourceVersion": "30",
        "labels": names.child_labels(name, uid, attempt)
        | {names.NODE_TYPE_LABEL: "head" if role == "head" else "worker", "ray.io/is-ray-node": "yes"},
    }
    if deleting:
        metadata |= {"deletionTimestamp": time(NOW), "deletionGracePeriodSeconds": 60}
    return {
        "metadata": metadata,
        "spec": ({} if unschedulable else {"nodeName": node})
        | {
            "containers": [
                {"name": each, "resources": {"limits": {"memory": limit}}} for each, limit in (limits or {}).items()
            ]
        },
        "status": {"phase": "Pending", "conditions": conditions, "containerStatuses": [*running, *waiting, *ended]}
        | status,
    }


def waits(reason: str, message: str = "", *, container: str = "ray-head") -> Object:
    """A container that cannot start."""
    state = {"reason": reason} | ({"message": message} if message else {})
    return {"name": container, "state": {"waiting": state}, "lastState": {}, "ready": False}


def ended(container: str = "ray-head", *, reason: str = "Error", code: int = 1, ago: float = 60) -> Object:
    """A container that has ended `ago` seconds before NOW."""
    state = {"reason": reason, "exitCode": code, "startedAt": time(NOW - ago - 60), "finishedAt": time(NOW - ago)}
    return {"name": container, "state": {"terminated": state}, "lastState": {}, "ready": False}


def status(
    phase: str, attempt: int = 1, *, run: Object | None = None, facts: dict[str, Fact] | None = None, **picture: Any
) -> Object:
    """A status as an operator has written it a minute ago."""
    told = {"Accepted": Fact(True, "Valid"), "Reconciling": Fact(True, "Progressing"), "Training": Fact(False, "x")}
    known: Object = {"start": NOW - 60, "ray_job_name": names.child_name("plays", attempt) if attempt else ""}
    body = render_status(
        FineTuneJobStatus(),
        Picture(phase, facts or told, attempt, **(known | picture)),
        generation=1,
        now=NOW - 60,
    ).to_json()
    return body | ({"run": {"attempt": attempt, "updatedAt": time(NOW)} | run} if run else {})


def books(attempts: Iterable[Object] = (), usage: Object | None = None, current: Object | None = None) -> Books:
    """Books that say this."""
    return Books(
        tuple(PastAttempt.model_validate({"reason": "x", "startTime": "", "endTime": ""} | each) for each in attempts),
        UsageStatus.model_validate(usage) if usage else None,
        CurrentAttempt.model_validate(current) if current else None,
    )


def world(
    body: Object | None = None, *, rayjobs: Iterable[Object] = (), pods: Iterable[Object] = (), now: float = NOW
) -> World:
    """What an operator sees that has read these objects."""
    body = body or job()
    return World(
        job=view_job(body),
        rayjobs=tuple(view_rayjob(each) for each in rayjobs),
        pods=tuple(view_pod(each) for each in pods),
        now=now,
    )
