"""The table of causes, row by row; which row it is where several could be; and that the docs have the same rows."""

from __future__ import annotations

import re
from typing import Any

import pytest

from finetune_operator.decide import causes
from finetune_operator.decide.budget import BUDGETS, COUNTED, FREE, MEMORY, NEVER
from finetune_operator.decide.causes import TABLE, Cause
from finetune_operator.decide.outcome import AttemptFailure, outcome
from finetune_training.contract.failure import EXIT_CODES
from tests.cluster.layout import ROOT
from tests.unit.operator import worlds
from tests.unit.operator.worlds import (
    APP_FAILED,
    HEAD_LOST,
    NOW,
    RUNNING,
    STOPPED,
    VALIDATION_FAILED,
    Object,
    job,
    pod,
    rayjob,
    world,
)
from tests.unit.operator.worlds import status as written

TERMINAL = APP_FAILED | {"message": ""}
NOBODY = {"class": "Infrastructure", "reason": "WorkerLost", "message": "Rank 3 is gone.", "rank": 3}
DATA = {"class": "Data", "reason": "BadRow", "message": "Row 3 of s3://x is no JSON.", "rank": 2}
TOLD = {"class": "Preempted", "reason": "Preempted", "message": "Stopped after step 7; its checkpoint is saved."}


def of(
    kuberay: Object | None, *pods: Object, failure: Object | None = None, now: float = NOW, **run: Any
) -> AttemptFailure | None:
    said = ({"stage": "Failed", "failure": failure} if failure else {}) | run
    body = job(status=written("Training", run=said or None))
    found = world(body, rayjobs=[] if kuberay is None else [rayjob(**kuberay)], pods=pods, now=now)
    seen = outcome(found, found.rayjob)
    assert seen is None or isinstance(seen, AttemptFailure)
    return seen


def ended(role: str, code: int, *, container: str = "", reason: str = "Error", ago: float = 60, **more: Any) -> Object:
    state = worlds.ended(container or f"ray-{role}", reason=reason, code=code, ago=ago)
    return pod(role, ended=[state], node="gpu-7", **more)


def failed(reason: str) -> Object:
    return {"jobDeploymentStatus": "Failed", "reason": reason, "message": "x", "endTime": worlds.time(NOW)}


LIMITS = {"ray-worker": "64Gi", "ray-head": "8Gi"}
INVALID = 'Pod "plays-1-x7k2p-head" is invalid: spec.x'
# What is seen, by row, and what is said then.
SEEN: dict[str, tuple[AttemptFailure | None, str]] = {
    causes.RAYJOB_DELETED.seen: (of(None), "The RayJob of attempt 1 was deleted while it ran."),
    causes.PODS_INVALID.seen: (
        of(worlds.replica_failure(INVALID)),
        f"Kubernetes refuses the pods: {INVALID} Correct it in a new job.",
    ),
    causes.MEMORY["ray-worker"].seen: (
        of(RUNNING, ended("worker", 137, reason="OOMKilled", limits=LIMITS), memory={"rung": 0, "peakBytes": 2**36}),
        "Container ray-worker of pod plays-1-x7k2p-worker used more memory than its limit of 64Gi and was killed (the most that "
        "a rank has had: 64.0 GiB). Raise spec.resources.worker.memory in a new job.",
    ),
    causes.MEMORY["ray-head"].seen: (
        of(HEAD_LOST, ended("head", 137, reason="OOMKilled", limits=LIMITS)),
        "Container ray-head of pod plays-1-x7k2p-head used more memory than its limit of 8Gi and was killed. "
        "Raise spec.resources.head.memory in a new job.",
    ),
    causes.MEMORY[""].seen: (
        of(TERMINAL, ended("head", 137, container="ray-job-submitter", reason="OOMKilled")),
        "Container ray-job-submitter of pod plays-1-x7k2p-head used more memory than its limit and was killed. "
        "It is not ours: see who adds it to the pods.",
    ),
    causes.HEAD_REPLACED.seen: (
        of(TERMINAL, failure={"class": "User", "reason": "AttemptClaimed", "message": "x"}),
        "The head pod was lost, and a new one cannot go on with the same attempt.",
    ),
    causes.DISRUPTIONS["Evicted"].seen: (
        of(TERMINAL, pod("worker", phase="Failed", reason="Evicted", message="The node was low on resource: memory.")),
        "Pod plays-1-x7k2p-worker was evicted by its node: Evicted: The node was low on resource: memory.",
    ),
    **{
        causes.DISRUPTIONS[reason].seen: (
            of(TERMINAL, pod("worker", disrupted=(reason, "So it is"))),
            f"Pod plays-1-x7k2p-worker was taken away: {reason}: So it is.",
        )
        for reason in (
            "EvictionByEvictionAPI", "PreemptionByScheduler", "DeletionByTaintManager", "DeletionByPodGC",
            "TerminationByKubelet",
        )
    },
    **{
        causes.DISRUPTIONS[reason].seen: (
            of(TERMINAL, pod("worker", phase="Failed", reason=reason)),
            f"Pod plays-1-x7k2p-worker was taken away: {reason}.",
        )
        for reason in ("Preempting", "NodeLost", "NodeShutdown", "Shutdown", "Terminated")
    },
    causes.DISRUPTIONS[""].seen: (
        of(TERMINAL, pod("worker", phase="Failed", reason="UnexpectedAdmissionError", message="No GPU.")),
        "Pod plays-1-x7k2p-worker failed: UnexpectedAdmissionError: No GPU.",
    ),
    **{
        causes.EXITS[code].seen: (
            of(TERMINAL, ended("worker", code)),
            f"Container ray-worker of pod plays-1-x7k2p-worker was ended by {name} (exit code {code})." + more,
        )
        for code, name, more in (
            (137, "SIGKILL", " It was not over its memory limit."), (143, "SIGTERM", " It was not over its memory limit."),
            (132, "SIGILL", ""), (134, "SIGABRT", ""), (135, "SIGBUS", ""), (136, "SIGFPE", ""), (139, "SIGSEGV", ""),
        )
    },
    causes.EXITS[None].seen: (
        of(HEAD_LOST, ended("head", 1)), "Container ray-head of pod plays-1-x7k2p-head ended with exit code 1.",
    ),
    causes.HEAD_LOST.seen: (of(HEAD_LOST), "The head pod was lost, and the Ray cluster with it."),
    causes.STOPPED.seen: (of(STOPPED), "The Ray job was stopped by somebody."),
    causes.DRIVER_ENDED.seen: (of(TERMINAL), "The driver ended and left no word why."),
    causes.DRIVER_KILLED.seen: (
        of(APP_FAILED | {"message": "Job entrypoint command failed with exit code -9. No logs available."}),
        "The driver was ended by SIGKILL and left no word why. If it was for memory: raise spec.resources.head.memory in a new "
        "job.",
    ),
    causes.KUBERAY["ValidationFailed"].seen: (
        of(VALIDATION_FAILED | {"message": "Bad."}),
        "KubeRay finds the RayJob invalid. KubeRay says: Bad. Correct it in a new job.",
    ),
    **{
        causes.KUBERAY[reason].seen: (of(failed(reason)), "The Ray cluster was lost. KubeRay says: x")
        for reason in ("SubmissionFailed", "JobStatusCheckTimeoutExceeded", "JobDeploymentStatusTransitionGracePeriodExceeded")
    },
    causes.KUBERAY[""].seen: (of({"jobDeploymentStatus": "Failed"}), "The Ray cluster was lost."),
}  # fmt: skip


@pytest.mark.parametrize("cause", TABLE, ids=lambda each: each.seen)
def test_each_row_of_the_causes_is_found_when_its_sign_is_seen(cause: Cause) -> None:
    failure, message = SEEN[cause.seen]
    assert failure
    assert failure.message == message
    assert (failure.cls, failure.reason) == (cause.cls or "Unknown", cause.reason)
    assert (failure.last, failure.repeats, failure.log) == (cause.last, cause.repeats, cause.log)
    assert bool(failure.pod) == ("{pod}" in cause.message)


def test_no_row_of_the_causes_is_there_twice() -> None:
    assert len({each.seen for each in TABLE}) == len(TABLE) == len(SEEN)


# ── the docs ────────────────────────────────────────────────────────────────────────────────────────────────────────

PAGE = (ROOT / "docs" / "failures.md").read_text()


def rows(title: str) -> list[list[str]]:
    section = PAGE.split(f"\n### {title}\n")[1].split("\n#")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [line.split(" | ") for line in lines[2:]]


def again(cause: Cause) -> str:
    """The last column."""
    budget = BUDGETS.get(cause.cls or "", COUNTED)
    if cause.last or budget == NEVER:
        return "no"
    return "yes, but not twice the same" if cause.repeats else "yes"


def test_the_docs_have_the_same_rows() -> None:
    reasons = {causes.KUBERAY[""]: "KubeRay's own, or `RayJobFailed`"}
    expected = [
        [each.seen, each.cls or "by its exit code", reasons.get(each, f"`{each.reason}`"), again(each)]
        for each in TABLE
    ]  # fmt: skip
    assert rows("What the operator sees") == expected


def test_the_docs_have_the_same_budgets() -> None:
    words = {
        NEVER: "none is made", FREE: "nothing: it does not count", MEMORY: "`status.outOfMemory`, at most 6",
        COUNTED: "`spec.backoffLimit`",
    }  # fmt: skip
    assert [row[:2] for row in rows("What another attempt costs")] == [
        [f"`{cls}`", words[budget]] for cls, budget in BUDGETS.items()
    ]


def test_the_docs_name_what_the_driver_only_sees_and_what_is_not_the_jobs_doing() -> None:
    assert {each for each in causes.SYMPTOMS if f"`{each}`" not in PAGE} == set()
    paragraph = next(each for each in PAGE.split("\n\n") if "not the job's doing" in each)
    assert set(re.findall(r"`([A-Z]\w+)`", paragraph)) >= causes.OUTSIDE - {"AttemptClaimed"}


# ── the order of the evidence ───────────────────────────────────────────────────────────────────────────────────────

OOM = ended("worker", 137, reason="OOMKilled")
DRAINED = pod("worker", disrupted=("EvictionByEvictionAPI", "Eviction API: evicting"), node="gpu-7")
KILLED = ended("worker", 139, suffix="-2")
ANOTHERS = ended("worker", 139, attempt=2)


@pytest.mark.parametrize(
    ("pods", "said", "reason"),
    [
        pytest.param([OOM, DRAINED], DATA, "OOMKilled", id="memory comes before the driver's word"),
        pytest.param([DRAINED, KILLED], DATA, "BadRow", id="the driver's word before a pod that was taken away"),
        pytest.param([DRAINED, KILLED], NOBODY, "PodDisrupted", id="which explains a rank that is gone"),
        pytest.param([DRAINED, KILLED], TOLD, "PodDisrupted", id="and why the driver was told to end"),
        pytest.param([DRAINED, KILLED], None, "PodDisrupted", id="and a driver without a word"),
        pytest.param([KILLED], TOLD, "Preempted", id="who was told to end has not crashed"),
        pytest.param([KILLED], NOBODY, "ContainerCrashed", id="a crash explains a rank that is gone"),
        pytest.param([], NOBODY, "WorkerLost", id="what the driver saw is better than nothing"),
        pytest.param([ended("worker", 0)], NOBODY, "WorkerLost", id="a container that did its work explains nothing"),
        pytest.param([ANOTHERS], NOBODY, "WorkerLost", id="nor another attempt's"),
        pytest.param([ended("worker", 143, deleting=True)], NOBODY, "WorkerLost", id="nor one that was told to go"),
        pytest.param(
            [ended("worker", 137, deleting=True, ago=61)], NOBODY, "ContainerKilled", id="unless it had ended before that"
        ),
        pytest.param([ended("worker", 1, container="sidecar")], NOBODY, "WorkerLost", id="nor somebody else's"),
    ],
)  # fmt: skip
def test_what_explains_the_rest_wins(pods: list[Object], said: Object | None, reason: str) -> None:
    failure = of(TERMINAL, *pods, failure=said)
    assert failure
    assert failure.reason == reason


def test_the_head_explains_an_end_before_the_workers_do() -> None:
    both = [pod(each, disrupted=("EvictionByEvictionAPI", "x")) for each in ("worker", "head")]
    failure = of(TERMINAL, *both)
    assert failure
    assert failure.pod == "plays-1-x7k2p-head"


def test_what_was_saved_first_is_said() -> None:
    failure = of(TERMINAL, DRAINED, failure=TOLD)
    assert failure == AttemptFailure(
        "Preempted", "PodDisrupted",
        "Pod plays-1-x7k2p-worker was taken away: EvictionByEvictionAPI: Eviction API: evicting. "
        "Stopped after step 7; its checkpoint is saved.",
        pod="plays-1-x7k2p-worker", node="gpu-7",
    )  # fmt: skip


def test_a_kubelet_that_evicts_is_not_one_that_shuts_down() -> None:
    """Of both it says TerminationByKubelet. Who fills his node's disk would be evicted for ever."""
    failure = of(TERMINAL, pod("worker", disrupted=("TerminationByKubelet", "Low on memory."), reason="Evicted"))
    assert failure
    assert (failure.cls, failure.reason) == ("Infrastructure", "Evicted")


def test_a_container_that_ended_when_the_job_was_over_explains_nothing() -> None:
    """KubeRay takes the cluster down then."""
    late = pod("worker", ended=[worlds.ended("ray-worker", code=137, ago=-5)])
    failure = of(TERMINAL, late, now=NOW + 10)
    assert failure
    assert failure.reason == "DriverEnded"


@pytest.mark.parametrize(("cls", "code"), EXIT_CODES.items())
def test_the_exit_code_of_a_driver_without_a_word_tells_its_class(cls: str, code: int) -> None:
    """That of the submitter does not: it is 0 or 1. Ray's message has the driver's own."""
    failure = of(APP_FAILED | {"message": f"Job entrypoint command failed with exit code {code}. No logs available."})
    assert failure
    assert (failure.cls, failure.reason, failure.last) == (cls, "DriverEnded", cls == "OutOfMemory")
    assert failure.message == f"The driver ended with exit code {code} and left no word why."


@pytest.mark.parametrize(("code", "said"), [(-11, "by SIGSEGV"), (137, "by SIGKILL"), (99, "with exit code 99")])
def test_a_signal_has_a_name(code: int, said: str) -> None:
    failure = of(APP_FAILED | {"message": f"Job entrypoint command failed with exit code {code}. No logs available."})
    assert failure
    assert f"ended {said} and left no word" in failure.message


# ── while the RayJob runs ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_that_was_killed_for_its_memory_ends_the_attempt_at_once() -> None:
    """KubeRay would make another one, and the ranks would end the same way."""
    failure = of(RUNNING, OOM)
    assert failure
    assert (failure.cls, failure.reason) == ("OutOfMemory", "OOMKilled")
    assert of(RUNNING, OOM, stage="Succeeded") is None
    assert of(RUNNING | {"suspend": True}, OOM) is None


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(DRAINED, id="drained"),
        pytest.param(KILLED, id="crashed"),
        pytest.param(pod("worker", phase="Failed", reason="Evicted"), id="evicted"),
        pytest.param(pod("worker", deleting=True), id="deleted"),
        pytest.param(pod("worker", disrupted=("DeletionByTaintManager", "x"), deleting=True), id="lost with its node"),
    ],
)
def test_a_worker_that_is_lost_otherwise_than_for_memory_does_not_end_the_attempt(lost: Object) -> None:
    """KubeRay replaces the pod, and the driver starts the ranks again. If it gives up it says so."""
    assert of(RUNNING, pod(runs=60), lost, now=NOW + 600) is None


def test_a_head_that_has_ended_and_that_kuberay_does_not_miss_ends_the_attempt() -> None:
    assert of(RUNNING, pod(ended=[worlds.ended(code=0, ago=19)])) is None
    failure = of(RUNNING, pod(ended=[worlds.ended(code=0, ago=20)]))
    assert failure
    assert failure.reason == "HeadLost"
    memory = of(RUNNING, pod(ended=[worlds.ended(reason="OOMKilled", code=137, ago=20)]))
    assert memory
    assert (memory.reason, memory.last) == ("OOMKilled", True)


def test_a_head_whose_node_does_not_answer_ends_the_attempt() -> None:
    gone = pod(disrupted=("DeletionByTaintManager", "Taint manager: deleting"), deleting=True)
    assert of(RUNNING, gone, now=NOW + 60) is None
    failure = of(RUNNING, gone, now=NOW + 61)
    assert failure
    assert (failure.cls, failure.reason) == ("Preempted", "PodDisrupted")
    other = pod(runs=5, suffix="-2")
    assert of({"jobDeploymentStatus": "Initializing"}, gone, other, now=NOW + 61) is None
