"""What is decided about a job that has to wait: for its next attempt, suspended, for a quota, for pods."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.decision import Decision
from finetune_operator.decide.effects import Announce, DeleteRayJob, SetStatus
from finetune_operator.decide.picture import Fact
from finetune_operator.decide.reconcile import decide, refused
from tests.unit.operator import worlds
from tests.unit.operator.decisions import DUE, begun, deleted, kinds, told
from tests.unit.operator.worlds import NOW, PLATFORM, RUNNING, Object, job, pod, rayjob, world
from tests.unit.operator.worlds import status as written
from tests.unit.operator.written import Status

# ── between two attempts ────────────────────────────────────────────────────────────────────────────────────────────


RETRYING = written("Pending", 1, failed=1, next_attempt=NOW + 7)


def test_the_next_attempt_waits_for_its_time() -> None:
    decision = decide(world(job(status=RETRYING)), PLATFORM)
    assert decision == Decision((), revisit_after=7)


def test_a_deadline_may_come_before_the_next_attempt() -> None:
    assert decide(world(job(status=RETRYING, activeDeadlineSeconds=65)), PLATFORM).revisit_after == 5


@pytest.mark.parametrize(
    ("left", "goes"),
    [
        pytest.param({"rayjobs": [rayjob(1)]}, ["plays-1"], id="the RayJob is there"),
        pytest.param({"rayjobs": [rayjob(1, deleting=True)]}, [], id="the RayJob is going"),
        pytest.param({"pods": [pod()]}, [], id="a pod is there"),
        pytest.param({"pods": [pod(deleting=True)]}, [], id="a pod is going"),
    ],
)
def test_the_next_attempt_waits_for_the_last_one_to_be_gone(left: dict[str, Any], goes: list[str]) -> None:
    """Two attempts would write to the same place."""
    decision = decide(world(job(status=DUE), **left), PLATFORM)
    assert begun(decision) == []
    assert deleted(decision) == goes


def test_a_change_between_two_attempts_is_acknowledged() -> None:
    body = job(status=DUE)
    body["metadata"]["generation"] = 2
    decision = decide(world(body, rayjobs=[rayjob(1)]), PLATFORM)
    assert told(decision).body["observedGeneration"] == 2
    assert told(decision).next_attempt == NOW
    assert deleted(decision) == ["plays-1"]


def test_the_next_attempt_has_the_next_number_and_remembers_the_failure() -> None:
    failure = {"class": "Unknown", "reason": "DriverEnded", "message": "x"}
    decision = decide(world(job(status=written("Pending", 1, failed=1, next_attempt=NOW, failure=failure))), PLATFORM)
    assert begun(decision) == [2]
    status = told(decision)
    assert (status.attempt, status.failed, status.next_attempt) == (2, 1, None)
    assert status.body["failure"] == failure
    assert status.start == NOW - 60


# ── suspension ──────────────────────────────────────────────────────────────────────────────────────────────────────


def suspended(attempt: int = 1, **picture: Any) -> Object:
    facts = {
        "Accepted": Fact(True, "Valid"),
        "Reconciling": Fact(True, "Progressing"),
        "Training": Fact(False, "Suspended", "x"),
        "Suspended": Fact(True, "Suspended", "x"),
    }
    return written("Suspended", attempt, facts=facts, start=None, **picture)


def test_a_job_that_is_born_suspended_starts_nothing() -> None:
    decision = decide(world(job(suspend=True)), PLATFORM)
    assert kinds(decision) == [SetStatus]
    status = told(decision)
    assert (status.phase, status.attempt, status.start) == ("Suspended", 0, None)
    assert status.holds("Suspended")


def test_suspension_takes_the_attempt_away_after_the_status_says_so() -> None:
    body = job(status=written("Training"), suspend=True)
    decision = decide(world(body, rayjobs=[rayjob(**RUNNING)], pods=[pod()]), PLATFORM)
    assert kinds(decision) == [SetStatus, Announce, DeleteRayJob]
    assert told(decision).condition("Suspended")["message"] == "The pods are being taken away."
    assert told(decision).start is None
    assert told(decision).failed == 0


def test_suspension_between_two_attempts_ends_the_wait() -> None:
    status = told(decide(world(job(status=RETRYING, suspend=True)), PLATFORM))
    assert (status.phase, status.next_attempt, status.failed) == ("Suspended", None, 1)


def test_a_suspended_job_says_when_its_pods_are_gone() -> None:
    body = job(status=suspended(), suspend=True)
    going = decide(world(body, pods=[pod(deleting=True)]), PLATFORM)
    assert "being taken away" in told(going).condition("Training")["message"]
    gone = told(decide(world(body), PLATFORM)).condition("Suspended")
    assert gone["message"] == "The pods are gone; set spec.suspend to false to go on."
    assert gone["lastTransitionTime"] == worlds.time(NOW - 60)


def test_a_resumed_job_waits_for_the_last_attempts_pods_and_says_so() -> None:
    decision = decide(world(job(status=suspended()), pods=[pod(deleting=True)]), PLATFORM)
    assert begun(decision) == []
    assert told(decision).condition("Training")["reason"] == "Resuming"
    assert told(decision).holds("Suspended")


def test_a_resumed_job_starts_another_attempt_and_its_time_anew() -> None:
    decision = decide(world(job(status=suspended(2, failed=1))), PLATFORM)
    assert begun(decision) == [3]
    status = told(decision)
    assert (status.start, status.failed) == (NOW, 1)
    assert status.condition("Suspended")["reason"] == "Resumed"
    assert not status.holds("Suspended")


# ── the API server says no ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_attempt_that_may_not_begin_yet_waits_and_says_why() -> None:
    decision = refused(world(), "QuotaExceeded", "The quota is used up.", final=False)
    status = told(decision)
    assert (status.phase, status.attempt) == ("Pending", 0)
    assert status.condition("Training")["reason"] == "QuotaExceeded"
    assert begun(decide(world(job(status=dict(status.body))), PLATFORM)) == [1]


@pytest.mark.parametrize(
    "before", [pytest.param(DUE, id="after a failure"), pytest.param(suspended(), id="after a suspension")]
)
def test_a_later_attempt_that_may_not_begin_yet_has_not_failed(before: Object) -> None:
    status = told(refused(world(job(status=before)), "QuotaExceeded", "The quota is used up.", final=False))
    again = decide(world(job(status=dict(status.body))), PLATFORM)
    assert begun(again) == [2]
    assert told(again).failed == Status(before).failed


def test_an_attempt_that_never_may_begin_fails_the_job() -> None:
    decision = refused(world(), "InvalidSpec", "Kubernetes does not like it.", final=True)
    assert told(decision).phase == "Failed"
    assert told(decision).condition("Failed")["message"] == "Kubernetes does not like it."


# ── a deadline for pods ─────────────────────────────────────────────────────────────────────────────────────────────


STARTED = worlds.books(current={"startTime": worlds.time(NOW - 60), "waitingSince": worlds.time(NOW - 60)})
NO_ROOM = pod("worker", unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")


@pytest.mark.parametrize(
    ("limit", "pods", "left"),
    [
        pytest.param(60, [pod(), NO_ROOM], 0, id="it is over"),
        pytest.param(90, [pod(), NO_ROOM], 30, id="there is some left"),
        pytest.param(60, [pod(runs=5), pod("worker", runs=5)], None, id="all pods run"),
        pytest.param(60, [pod(runs=5), pod("worker", runs=5, deleting=True)], 0, id="one of them is going"),
    ],
)
def test_an_attempt_must_have_its_pods_in_time(limit: int, pods: list[Object], left: float | None) -> None:
    body = job(status=written("Pending", books=STARTED), pendingDeadlineSeconds=limit)
    decision = decide(world(body, rayjobs=[rayjob(jobDeploymentStatus="Initializing")], pods=pods), PLATFORM)
    if left == 0:
        failed = told(decision).condition("Failed")
        assert failed["reason"] == "PendingDeadlineExceeded"
        assert failed["message"].startswith(
            f"Attempt 1 did not get all its pods within {limit} s: spec.pendingDeadlineSeconds. "
        )
        assert deleted(decision) == ["plays-1"]
    else:
        assert decision.revisit_after == left
        assert not told(decision).ended


def test_a_job_that_did_not_get_its_pods_in_time_says_what_it_waited_for() -> None:
    body = job(status=written("Pending", books=STARTED), pendingDeadlineSeconds=60)
    found = world(body, rayjobs=[rayjob(jobDeploymentStatus="Initializing")], pods=[pod(), NO_ROOM])
    assert "3 Insufficient nvidia.com/gpu" in told(decide(found, PLATFORM)).condition("Failed")["message"]


def test_time_in_a_queue_does_not_count_to_the_deadline_for_pods() -> None:
    body = job(status=written("Pending", books=STARTED), pendingDeadlineSeconds=60)
    queued = decide(world(body, rayjobs=[rayjob(suspend=True)]), PLATFORM)
    assert told(queued).condition("Training")["reason"] == "Queued"
    later = world(job(status=dict(told(queued).body), pendingDeadlineSeconds=60), rayjobs=[rayjob()], now=NOW + 1000)
    admitted = decide(later, PLATFORM)
    assert told(admitted).body["current"]["waitingSince"] == worlds.time(NOW + 1000)
    assert admitted.revisit_after == 60


def test_pods_that_ran_once_meet_the_deadline_for_pods() -> None:
    """A worker that is replaced later is the driver's business."""
    assert STARTED.current
    books = worlds.books(current={**STARTED.current.to_json(), "runningTime": worlds.time(NOW - 30)})
    body = job(status=written("Training", run={"stage": "Preparing"}, books=books), pendingDeadlineSeconds=60)
    found = world(body, rayjobs=[rayjob(jobDeploymentStatus="Initializing")], pods=[pod(runs=30), NO_ROOM])
    assert not told(decide(found, PLATFORM)).ended


@pytest.mark.parametrize(
    ("before", "over"),
    [
        pytest.param(written("Pending", 0), True, id="the first attempt"),
        pytest.param(written("Pending", 1, failed=1, next_attempt=NOW - 60), True, id="a later one"),
        pytest.param(
            written("Pending", 1, failed=1, next_attempt=NOW - 59), False, id="one that was due a little later"
        ),
        pytest.param(written("Pending", 0, start=None), False, id="one that waits from now on"),
    ],
)
def test_an_attempt_that_may_not_begin_waits_no_longer_than_the_deadline_for_pods(before: Object, over: bool) -> None:
    body = job(status=before, pendingDeadlineSeconds=60)
    status = told(refused(world(body), "QuotaExceeded", "The quota is used up.", final=False))
    assert status.ended is over
    if over:
        message = status.condition("Failed")["message"]
        assert message.endswith("within 60 s: spec.pendingDeadlineSeconds. The quota is used up.")
