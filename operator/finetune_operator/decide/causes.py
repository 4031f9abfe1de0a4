"""Why attempts end, as a table: one row for each thing that can be seen.

In: nothing. Out: rows, by the words that Kubernetes, KubeRay and Ray have for it. What the rows say is in docs/failures.md
too, and a test keeps both the same. Which row it is, where several could be, is decided in outcome.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from finetune_operator.names import HEAD, WORKER
from finetune_training.contract.failure import FailureClass, Reason


@dataclass(frozen=True)
class Cause:
    """One row. `seen` is its text in the docs. `message` has places for what is known of the case. `cls` None: the driver's exit
    code tells. `log`: whose log says more, where the driver has left no word. `repeats`: it can be the job's own doing, so that
    the same twice in a row ends the job. `last`: no other attempt can help, whatever its class."""

    seen: str
    cls: FailureClass | None
    reason: str
    message: str
    log: Literal["", "submitter", "head", "pod"] = ""
    repeats: bool = False
    last: bool = False


_TOO_MUCH = "Container {container} of pod {pod} used more memory than its limit{limit} and was killed{peak}."
MEMORY: Final[Mapping[str, Cause]] = {
    WORKER: Cause(
        "`OOMKilled` of a worker's Ray container", FailureClass.OUT_OF_MEMORY, "OOMKilled",
        _TOO_MUCH + " Raise spec.resources.worker.memory in a new job.", log="pod",
    ),
    HEAD: Cause(
        "`OOMKilled` of the head's Ray container", FailureClass.OUT_OF_MEMORY, "OOMKilled",
        _TOO_MUCH + " Raise spec.resources.head.memory in a new job.", log="pod", last=True,
    ),
    "": Cause(
        "`OOMKilled` of a container that KubeRay or a policy has added", FailureClass.INFRASTRUCTURE, "SidecarOOMKilled",
        _TOO_MUCH + " It is not ours: see who adds it to the pods.", log="pod",
    ),
}  # fmt: skip
"""By the container that the kernel has killed; empty: any other."""


def _taken(seen: str) -> Cause:
    return Cause(seen, FailureClass.PREEMPTED, "PodDisrupted", "Pod {pod} was taken away: {why}.{saved}")


DISRUPTIONS: Final[Mapping[str, Cause]] = {
    "Evicted": Cause(
        "`Evicted` by the kubelet: its node, or the pod itself, ran out of memory or disk",
        FailureClass.INFRASTRUCTURE, "Evicted", "Pod {pod} was evicted by its node: {why}.{saved}",
    ),
    "EvictionByEvictionAPI": _taken("`EvictionByEvictionAPI`: a drain, or an autoscaler"),
    "PreemptionByScheduler": _taken("`PreemptionByScheduler`: a pod of a higher priority needs the room"),
    "DeletionByTaintManager": _taken("`DeletionByTaintManager`: its node is tainted, or does not answer"),
    "DeletionByPodGC": _taken("`DeletionByPodGC`: its node is gone"),
    "TerminationByKubelet": _taken("`TerminationByKubelet`: its node shuts down"),
    "Preempting": _taken("`Preempting`: the kubelet needs the room for a critical pod"),
    "NodeLost": _taken("`NodeLost`: its node does not answer"),
    "NodeShutdown": _taken("`NodeShutdown`: its node shuts down"),
    "Shutdown": _taken("`Shutdown`: its node shuts down"),
    "Terminated": _taken("`Terminated`: its node shuts down"),
    "": Cause(
        "any other reason in the status of a pod, such as `UnexpectedAdmissionError`", FailureClass.INFRASTRUCTURE, "PodFailed",
        "Pod {pod} failed: {why}.{saved}",
    ),
}  # fmt: skip
"""By the reason of a pod's status or of its condition DisruptionTarget."""

_ENDED_BY = "Container {container} of pod {pod} was ended by {signal} (exit code {code})."
_KILLED: Final = {137: "SIGKILL", 143: "SIGTERM"}
_CRASHED: Final = {132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 139: "SIGSEGV"}
SIGNALS: Final[Mapping[int, str]] = _KILLED | _CRASHED
EXITS: Final[Mapping[int | None, Cause]] = {
    **{
        code: Cause(
            f"exit code {code} of a Ray container, {signal}", FailureClass.INFRASTRUCTURE, "ContainerKilled",
            _ENDED_BY + " It was not over its memory limit.", log="pod",
        )
        for code, signal in _KILLED.items()
    },
    **{
        code: Cause(
            f"exit code {code} of a Ray container, {signal}", FailureClass.INFRASTRUCTURE, "ContainerCrashed", _ENDED_BY,
            log="pod", repeats=True,
        )
        for code, signal in _CRASHED.items()
    },
    None: Cause(
        "any other exit code of a Ray container but 0", FailureClass.INFRASTRUCTURE, "ContainerFailed",
        "Container {container} of pod {pod} ended with exit code {code}.", log="pod", repeats=True,
    ),
}  # fmt: skip
"""By the exit code of a Ray container."""

HEAD_LOST: Final = Cause(
    "`Ray head pod not found`, or a head that has ended or does not answer, which KubeRay does not see",
    FailureClass.INFRASTRUCTURE, "HeadLost", "The head pod was lost, and the Ray cluster with it.", log="head",
)  # fmt: skip
HEAD_REPLACED: Final = Cause(
    "the driver says `AttemptClaimed`: KubeRay has made another head for the attempt",
    FailureClass.INFRASTRUCTURE, "HeadLost", "The head pod was lost, and a new one cannot go on with the same attempt.",
)  # fmt: skip
RAYJOB_DELETED: Final = Cause(
    "the RayJob is gone",
    FailureClass.INFRASTRUCTURE,
    "RayJobDeleted",
    "The RayJob of attempt {attempt} was deleted while it ran.",
)
PODS_INVALID: Final = Cause(
    "the API server finds the pods invalid", FailureClass.USER, "PodsInvalid",
    "Kubernetes refuses the pods: {problem} Correct it in a new job.",
)  # fmt: skip
DRIVER_ENDED: Final = Cause(
    "`AppFailed`, or a submitter that has ended: the driver's exit code tells the class", None, "DriverEnded",
    "The driver ended{code} and left no word why.", log="submitter", repeats=True,
)  # fmt: skip
DRIVER_KILLED: Final = Cause(
    "`AppFailed` with a signal in place of an exit code", FailureClass.INFRASTRUCTURE, "DriverKilled",
    "The driver was ended by {signal} and left no word why. If it was for memory: raise spec.resources.head.memory in a new job.",
    log="submitter",
)  # fmt: skip
STOPPED: Final = Cause(
    "`jobStatus: STOPPED`", FailureClass.INFRASTRUCTURE, "RayJobStopped", "The Ray job was stopped by somebody.{said}"
)


def _lost(reason: str) -> Cause:
    return Cause(f"`{reason}`", FailureClass.INFRASTRUCTURE, reason, "The Ray cluster was lost.{said}", log="submitter")


KUBERAY: Final[Mapping[str, Cause]] = {
    "ValidationFailed": Cause(
        "`ValidationFailed`", FailureClass.USER, "RayJobRefused",
        "KubeRay finds the RayJob invalid.{said} Correct it in a new job.",
    ),
    **{
        reason: _lost(reason)
        for reason in (
            "SubmissionFailed", "JobStatusCheckTimeoutExceeded", "JobDeploymentStatusTransitionGracePeriodExceeded",
        )
    },
    "": Cause(
        "any other end of a RayJob", FailureClass.INFRASTRUCTURE, "RayJobFailed", "The Ray cluster was lost.{said}",
        log="submitter",
    ),
}  # fmt: skip
"""By the RayJob's reason."""

TABLE: Final[tuple[Cause, ...]] = (
    RAYJOB_DELETED, PODS_INVALID, *MEMORY.values(), HEAD_REPLACED, *DISRUPTIONS.values(), *EXITS.values(), HEAD_LOST,
    STOPPED, DRIVER_ENDED, DRIVER_KILLED, *KUBERAY.values(),
)  # fmt: skip
"""All rows, as the docs have them."""

SYMPTOMS: Final[frozenset[str]] = frozenset(
    {
        Reason.WORKER_LOST, Reason.NODE_LOST, Reason.CLUSTER_LOST, Reason.CLUSTER_TOO_SMALL, Reason.COLLECTIVE, Reason.NETWORK,
        Reason.UNKNOWN,
    }
)  # fmt: skip
"""Reasons of the driver's that say what it has seen, not why: a pod that was lost explains them."""

OUTSIDE: Final[frozenset[str]] = frozenset(
    {
        Reason.STORE_UNAVAILABLE, Reason.HUB_UNREACHABLE, Reason.NETWORK, Reason.NODE_LOST, Reason.CLUSTER_LOST,
        Reason.CLUSTER_TOO_SMALL, Reason.ATTEMPT_CLAIMED,
    }
)  # fmt: skip
"""Reasons of the driver's that are not the job's doing: to see one twice proves nothing."""
