"""Objects of the API server → what the operator keeps of them.

In: JSON objects of watches, lists and answers. Out: small frozen views. Of 10,000 jobs only this stays in memory, so spec and
status are kept as text and read when they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator import names
from finetune_training.contract.moment import seconds
from finetune_training.contract.record import Json

_encoded = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class JobView:
    """A FineTuneJob. `spec` and `status` are JSON."""

    namespace: str
    name: str
    uid: str
    version: int
    generation: int
    deleting: bool
    phase: str
    spec: bytes
    status: bytes

    @property
    def key(self) -> str:
        return names.job_key(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class RayJobView:
    """A RayJob of ours. Times are seconds since 1970. `problem`: why KubeRay could not make its pods."""

    namespace: str
    name: str
    uid: str
    version: int
    job: str
    job_uid: str
    attempt: int
    created: float
    deleting: bool
    suspend: bool
    job_status: str
    deployment_status: str
    reason: str
    message: str
    end: float | None
    problem: str

    @property
    def key(self) -> str:
        return names.job_key(self.namespace, self.job)

    @property
    def terminal(self) -> bool:
        """KubeRay does nothing more with it."""
        return self.deployment_status in ("Complete", "Failed", "ValidationFailed")


@dataclass(frozen=True, slots=True)
class Ended:
    """A container that has ended, at `time`. `limit`: of its memory."""

    container: str
    reason: str
    exit_code: int
    time: float
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that cannot start."""

    container: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodView:
    """A Ray pod of ours. `told_to_go`: when that was, if it was; `gone_by`: when it should be gone then. `unschedulable`: the
    scheduler's reason.
    `disruption`: the reason of its condition DisruptionTarget, `reason` that of its status; `why` is both, with a message.
    `started`: when the last of its containers did, if all have."""

    namespace: str
    name: str
    uid: str
    version: int
    job: str
    job_uid: str
    attempt: int
    head: bool
    phase: str
    node: str
    told_to_go: float | None
    gone_by: float | None
    scheduled: bool
    scheduled_at: float | None
    started: float | None
    unschedulable: str
    disruption: str
    reason: str
    why: str
    waiting: tuple[Waiting, ...]
    ended: tuple[Ended, ...]

    @property
    def key(self) -> str:
        return names.job_key(self.namespace, self.job)

    @property
    def deleting(self) -> bool:
        return self.gone_by is not None


View = JobView | RayJobView | PodView


def view_job(body: Json) -> JobView:
    """A FineTuneJob."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    return JobView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        generation=metadata.get("generation", 1),
        deleting="deletionTimestamp" in metadata,
        phase=status.get("phase", ""),
        spec=compact(spec),
        status=compact(status),
    )


def view_rayjob(body: Json) -> RayJobView:
    """A RayJob with our labels."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels = metadata["labels"]
    cluster = status.get("rayClusterStatus") or {}
    failure = _condition(cluster.get("conditions"), "ReplicaFailure")
    return RayJobView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        job=labels.get(names.JOB_LABEL, ""),
        job_uid=labels[names.UID_LABEL],
        attempt=_attempt(labels),
        created=seconds(metadata["creationTimestamp"]) or 0.0,
        deleting="deletionTimestamp" in metadata,
        suspend=bool(spec.get("suspend")),
        job_status=status.get("jobStatus", ""),
        deployment_status=status.get("jobDeploymentStatus", ""),
        reason=status.get("reason", ""),
        message=_shortened(status.get("message", "")),
        end=seconds(status.get("endTime")),
        problem=_problem(failure.get("message", "")) if failure.get("status") == "True" else "",
    )


def view_pod(body: Json) -> PodView:
    """A pod with our labels."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels, conditions = metadata["labels"], status.get("conditions")
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    scheduled = _condition(conditions, "PodScheduled")
    disruption = _condition(conditions, "DisruptionTarget")
    gone_by = seconds(metadata.get("deletionTimestamp"))
    return PodView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        job=labels.get(names.JOB_LABEL, ""),
        job_uid=labels[names.UID_LABEL],
        attempt=_attempt(labels),
        head=labels.get(names.NODE_TYPE_LABEL) == "head",
        phase=status.get("phase", "Pending"),
        node=spec.get("nodeName", ""),
        told_to_go=None if gone_by is None else gone_by - metadata.get("deletionGracePeriodSeconds", 0),
        gone_by=gone_by,
        scheduled=scheduled.get("status") == "True",
        scheduled_at=seconds(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        started=_started(status),
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        disruption=disruption.get("reason", "") if disruption.get("status") == "True" else "",
        reason=status.get("reason", ""),
        why=_text(disruption if disruption.get("status") == "True" else status),
        waiting=tuple(_waiting(containers)),
        ended=tuple(_ended(containers, _memory_limits(spec))),
    )


def compact(value: Any) -> bytes:
    """JSON without spaces."""
    return _encoded(value).encode()


def _shortened(message: str) -> str:
    """Of a driver that has failed Ray gives up to 20,000 characters of its log: how it begins and ends is enough."""
    return message if len(message) <= 2048 else f"{message[:512]}\n...\n{message[-1024:]}"


def _problem(message: str) -> str:
    """KubeRay puts its own word for it on a line before what the API server said."""
    return " ".join(line for line in message.splitlines() if " " in line) or message


def _attempt(labels: Mapping[str, str]) -> int:
    """Anybody can set labels: what is no attempt of ours must not keep us from those that are."""
    number = labels.get(names.ATTEMPT_LABEL, "")
    return int(number) if number.isdecimal() else 0


def _condition(conditions: Iterable[Json] | None, kind: str) -> Json:
    return next((each for each in conditions or () if each.get("type") == kind), {})


def _text(condition: Json) -> str:
    return ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)


def _waiting(containers: Iterable[Json]) -> Iterable[Waiting]:
    for each in containers:
        state = (each.get("state") or {}).get("waiting")
        if state and state.get("reason"):
            yield Waiting(each["name"], state["reason"], state.get("message", ""))


def _ended(containers: Iterable[Json], limits: Mapping[str, str]) -> Iterable[Ended]:
    for each in containers:
        state = (each.get("state") or {}).get("terminated")
        if state:
            yield Ended(
                each["name"],
                state.get("reason", ""),
                state.get("exitCode", 0),
                seconds(state.get("finishedAt")) or 0.0,
                limits.get(each["name"], ""),
            )


def _memory_limits(spec: Json) -> dict[str, str]:
    """By container."""
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    limits = {each["name"]: ((each.get("resources") or {}).get("limits") or {}).get("memory") for each in containers}
    return {name: str(limit) for name, limit in limits.items() if limit}


def _started(status: Json) -> float | None:
    if status.get("phase", "Pending") in ("Pending", "Unknown"):
        return None
    states = [each.get("state") or {} for each in status.get("containerStatuses", ())]
    times = [seconds((state.get("running") or state.get("terminated") or {}).get("startedAt")) for state in states]
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None
