"""What is decided about a job, over its whole life."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.decide.books import Books
from finetune_operator.decide.effects import (
    Announce,
    ConfirmGone,
    Decision,
    DeleteRayJob,
    Effect,
    ForgetPod,
    SetStatus,
    Start,
)
from finetune_operator.decide.picture import Fact
from finetune_operator.decide.reconcile import decide, refused
from finetune_operator.observe.store import Seen
from finetune_operator.observe.views import view_job, view_pod, view_rayjob
from finetune_operator.observe.world import LOST_AFTER, Status, World, look
from finetune_operator.settings import Platform
from tests.unit.operator import worlds
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.worlds import (
    APP_FAILED,
    HEAD_LOST,
    NOW,
    PLATFORM,
    RUNNING,
    STOPPED,
    SUBMISSION_FAILED,
    SUCCEEDED,
    VALIDATION_FAILED,
    Object,
    job,
    pod,
    rayjob,
    world,
)
from tests.unit.operator.worlds import status as written


def kinds(decision: Decision) -> list[type[Effect]]:
    return [type(each) for each in decision.effects]


def told(decision: Decision) -> Status:
    """The status that is written. There must be one, and only one."""
    (status,) = (each.status for each in decision.effects if isinstance(each, SetStatus))
    return Status(status)


def begun(decision: Decision) -> list[int]:
    return [each.attempt for each in decision.effects if isinstance(each, Start)]


def deleted(decision: Decision) -> list[str]:
    return [each.name for each in decision.effects if isinstance(each, DeleteRayJob)]


def after(*decisions: Decision) -> list[str]:
    """The Events of decisions."""
    return [each.reason for decision in decisions for each in decision.effects if isinstance(each, Announce)]


# ── the first attempt ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_job_starts_its_first_attempt_before_its_status_says_so() -> None:
    decision = decide(world(), PLATFORM)
    assert kinds(decision) == [Start, SetStatus]
    assert begun(decision) == [1]
    status = told(decision).body
    assert (status["phase"], status["attempt"], status["rayJobName"]) == ("Pending", 1, "plays-1")
    assert status["startTime"] == worlds.time(NOW)
    assert "failed" not in status
    assert told(decision).holds("Accepted")


def test_a_rayjob_of_which_the_status_does_not_know_is_taken_over() -> None:
    """The operator was killed between the two."""
    decision = decide(world(rayjobs=[rayjob(1, **RUNNING)]), PLATFORM)
    assert begun(decision) == [1]
    assert told(decision).attempt == 1
    assert deleted(decision) == []


RESUMING = {"Training": Fact(False, "Resuming"), "Suspended": Fact(True, "Resuming")}


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(written("Pending", 1, failed=1, next_attempt=NOW - 5), id="after a failed attempt"),
        pytest.param(written("Suspended", 1, start=None, facts=RESUMING), id="after a suspension"),
    ],
)
def test_so_is_that_of_a_later_attempt(before: Object) -> None:
    """Deleting it would give its number to a second RayJob, whose driver would find itself fenced by the first."""
    decision = decide(world(job(status=before), rayjobs=[rayjob(2)]), PLATFORM)
    assert begun(decision) == [2]
    assert deleted(decision) == []
    assert told(decision).attempt == 2
    assert told(decision).next_attempt is None
    assert not told(decision).holds("Suspended")


# ── an attempt runs ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("deployment", "stage", "phase", "training"),
    [
        pytest.param("", None, "Provisioning", False, id="not yet taken up"),
        pytest.param("Initializing", None, "Provisioning", False, id="its pods start"),
        pytest.param("Initializing", "Preparing", "Provisioning", False, id="the head prepares, workers still start"),
        pytest.param("Running", None, "Preparing", True, id="the driver is submitted"),
        pytest.param("Running", "Preparing", "Preparing", True, id="the driver prepares data"),
        pytest.param("Running", "Training", "Training", True, id="it trains"),
        pytest.param("Initializing", "Training", "Training", True, id="it trains, and KubeRay lags behind"),
        pytest.param("Running", "Evaluating", "Evaluating", True, id="it evaluates"),
        pytest.param("Running", "Exporting", "Exporting", True, id="it exports"),
        pytest.param("Running", "Succeeded", "Exporting", True, id="the driver is done, KubeRay does not know yet"),
    ],
)
def test_the_phase_follows_the_driver(deployment: str, stage: str | None, phase: str, training: bool) -> None:
    body = job(status=written("Pending", run={"stage": stage} if stage else None))
    decision = decide(
        world(body, rayjobs=[rayjob(jobDeploymentStatus=deployment)], pods=[pod(), pod("worker")]), PLATFORM
    )
    assert told(decision).phase == phase
    assert told(decision).holds("Training") is training
    assert after(decision) == [phase]


def test_a_driver_that_has_failed_keeps_its_phase_until_kuberay_says_so() -> None:
    body = job(status=written("Training", run={"stage": "Failed"}))
    decision = decide(world(body, rayjobs=[rayjob(**RUNNING)]), PLATFORM)
    assert told(decision).phase == "Training"


def test_a_worker_that_is_replaced_and_finds_no_node_is_told() -> None:
    """The driver waits for it for ten minutes, and knows no reason."""
    body = job(status=written("Training", run={"stage": "Training"}))
    no_room = pod("worker", unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    found = decide(world(body, rayjobs=[rayjob(**RUNNING)], pods=[pod(), no_room]), PLATFORM)
    condition = told(found).condition("Training")
    assert (condition["status"], condition["reason"]) == ("True", "Training")
    assert condition["message"].startswith("Attempt 1 is running. A worker is being replaced. 1 of 2 pods find no node")
    whole = decide(world(body, rayjobs=[rayjob(**RUNNING)], pods=[pod(), pod("worker")]), PLATFORM)
    assert told(whole).condition("Training")["message"] == "Attempt 1 is running."


def test_what_an_earlier_attempt_reported_says_nothing_of_this_one() -> None:
    body = job(status=written("Pending", 2, run={"attempt": 1, "stage": "Training"}))
    decision = decide(
        world(body, rayjobs=[rayjob(2, jobDeploymentStatus="Initializing")], pods=[pod(attempt=2), pod("worker", 2)]),
        PLATFORM,
    )
    assert told(decision).phase == "Provisioning"


def test_a_resumed_attempt_says_from_where() -> None:
    body = job(status=written("Pending", 2, run={"stage": "Training", "resumedFromStep": 500}))
    decision = decide(world(body, rayjobs=[rayjob(2, **RUNNING)]), PLATFORM)
    assert told(decision).condition("Training")["message"] == "Attempt 2 is running. It goes on from step 500."


def test_a_queue_that_holds_the_pods_back_is_seen() -> None:
    body = job(status=written("Pending"))
    decision = decide(world(body, rayjobs=[rayjob(suspend=True, jobDeploymentStatus="Suspended")]), PLATFORM)
    assert told(decision).phase == "Pending"
    assert told(decision).condition("Training")["reason"] == "Queued"


def test_an_attempt_that_a_queue_takes_back_is_followed_by_another_that_does_not_count() -> None:
    """Admitted again, KubeRay would run the same attempt, whose claim is taken."""
    body = job(status=written("Training", run={"stage": "Training"}))
    decision = decide(world(body, rayjobs=[rayjob(suspend=True, jobDeploymentStatus="Suspended")]), PLATFORM)
    assert deleted(decision) == ["plays-1"]
    assert told(decision).condition("Training")["reason"] == "Preempted"
    assert (told(decision).failed, told(decision).next_attempt) == (0, NOW)
    later = job(status=dict(told(decision).body))
    assert begun(decide(world(later, now=NOW + 1), PLATFORM)) == [2]


def test_pods_of_a_node_that_does_not_answer_hold_up_the_next_attempt_for_a_minute() -> None:
    body = job(status=written("Pending", 1, failed=1, next_attempt=NOW - 5))
    waits = decide(world(body, pods=[pod(deleting=True)], now=NOW + LOST_AFTER), PLATFORM)
    assert (begun(waits), waits.revisit_after) == ([], 5.0)
    assert begun(decide(world(body, pods=[pod(deleting=True)], now=NOW + LOST_AFTER + 1), PLATFORM)) == [2]


def test_a_worker_of_a_node_that_does_not_answer_is_given_up_so_that_it_is_replaced() -> None:
    body, running = job(status=written("Training", 1)), [rayjob(**RUNNING)]
    pods = [pod(), pod("worker", deleting=True)]
    waits = decide(world(body, rayjobs=running, pods=pods, now=NOW + LOST_AFTER - 10), PLATFORM)
    assert [each for each in waits.effects if isinstance(each, ForgetPod)] == []
    assert waits.revisit_after == 10.0
    late = decide(world(body, rayjobs=running, pods=pods, now=NOW + LOST_AFTER + 1), PLATFORM)
    assert [each.name for each in late.effects if isinstance(each, ForgetPod)] == [pods[1]["metadata"]["name"]]
    assert deleted(late) == []


def test_an_attempt_that_is_refused_by_half_has_not_begun() -> None:
    """The RayJob was made, its ConfigMap not: written down as begun, nobody would make the ConfigMap any more."""
    decision = refused(world(job(), rayjobs=[rayjob()]), "QuotaExceeded", "full", final=False)
    assert (told(decision).attempt, told(decision).start) == (0, NOW)
    assert "current" not in told(decision).body
    again = decide(world(job(status=dict(told(decision).body)), rayjobs=[rayjob()]), PLATFORM)
    assert begun(again) == [1]


def test_an_earlier_rayjob_that_is_still_there_goes() -> None:
    body = job(status=written("Pending", 2))
    assert deleted(decide(world(body, rayjobs=[rayjob(1), rayjob(2)]), PLATFORM)) == ["plays-1"]


def test_a_rayjob_that_kuberay_has_not_seen_is_looked_at_again_in_time() -> None:
    body = job(status=written("Pending"))
    assert decide(world(body, rayjobs=[rayjob(age=30)]), PLATFORM).revisit_after == 150
    assert decide(world(body, rayjobs=[rayjob(age=180)]), PLATFORM).revisit_after is None
    assert decide(world(body, rayjobs=[rayjob(**RUNNING)]), PLATFORM).revisit_after is None


def test_an_attempt_whose_submitter_has_ended_is_looked_at_again_soon() -> None:
    """KubeRay does not look before its cluster was ready: no event will come."""
    body = job(status=written("Provisioning"))
    submitter = pod(ended=[worlds.ended("ray-job-submitter", ago=1)])
    decision = decide(world(body, rayjobs=[rayjob(jobDeploymentStatus="Initializing")], pods=[submitter]), PLATFORM)
    assert decision.revisit_after == 5
    older = pod(attempt=1, ended=[worlds.ended("ray-job-submitter", ago=1)])
    body = job(status=written("Provisioning", 2))
    assert decide(world(body, rayjobs=[rayjob(2, **RUNNING)], pods=[older]), PLATFORM).revisit_after is None


# ── an attempt ends ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_succeeded_completes_its_job() -> None:
    body = job(status=written("Exporting", run={"stage": "Succeeded"}))
    decision = decide(world(body, rayjobs=[rayjob(**SUCCEEDED)]), PLATFORM)
    assert kinds(decision) == [SetStatus, Announce]
    status = told(decision)
    assert status.ended
    assert (status.phase, status.completion) == ("Succeeded", NOW)
    assert {each["type"]: each["status"] for each in status.body["conditions"]} == {
        "Accepted": "True",
        "Training": "False",
        "Complete": "True",
    }
    assert after(decision) == ["Succeeded"]


@pytest.mark.parametrize(
    "late",
    [
        pytest.param({"suspend": True}, id="then was suspended"),
        pytest.param({"activeDeadlineSeconds": 30}, id="then was over its deadline"),
    ],
)
def test_a_run_that_succeeded_before_the_operator_looked_is_complete(late: Object) -> None:
    """What happened while the operator was away counts: the result is there."""
    body = job(status=written("Exporting"), **late)
    assert told(decide(world(body, rayjobs=[rayjob(**SUCCEEDED)]), PLATFORM)).phase == "Succeeded"


def test_a_run_that_succeeded_and_whose_rayjob_is_being_deleted_is_complete() -> None:
    body = job(status=written("Exporting"))
    assert told(decide(world(body, rayjobs=[rayjob(**SUCCEEDED, deleting=True)]), PLATFORM)).phase == "Succeeded"


def test_a_run_that_ended_before_its_attempt_was_written_down_has_a_start() -> None:
    status = told(decide(world(rayjobs=[rayjob(age=30, **SUCCEEDED)]), PLATFORM))
    assert (status.phase, status.attempt, status.start) == ("Succeeded", 1, NOW - 30)


def test_a_rayjob_that_kuberay_finds_invalid_is_not_made_again() -> None:
    status = told(decide(world(job(status=written("Pending")), rayjobs=[rayjob(**VALIDATION_FAILED)]), PLATFORM))
    assert (status.phase, status.failed, status.attempt) == ("Failed", 1, 1)


def driver_said(cls: str, **more: Any) -> Object:
    return {"stage": "Failed", "failure": {"class": cls, "reason": "Because", "message": "It broke.", **more}}


@pytest.mark.parametrize(
    ("kuberay", "run", "cls", "counted"),
    [
        pytest.param(STOPPED, None, "Infrastructure", 1, id="somebody stopped the Ray job"),
        pytest.param(SUBMISSION_FAILED, None, "Infrastructure", 1, id="it could not be submitted"),
        pytest.param(HEAD_LOST, None, "Infrastructure", 1, id="the head pod is gone"),
        pytest.param(APP_FAILED, None, "Unknown", 1, id="the driver left no word"),
        pytest.param(APP_FAILED, driver_said("Infrastructure"), "Infrastructure", 1, id="a store that does not answer"),
        pytest.param(APP_FAILED, driver_said("Hang"), "Hang", 1, id="ranks that do nothing"),
        pytest.param(APP_FAILED, driver_said("Preempted"), "Preempted", 0, id="a pod that was told to end"),
        pytest.param(APP_FAILED, driver_said("Interrupted"), "Interrupted", 1, id="a signal"),
        pytest.param(APP_FAILED, driver_said("Fenced"), "Fenced", 1, id="a newer attempt"),
        pytest.param(APP_FAILED, driver_said("Unknown"), "Unknown", 1, id="an error that nobody knows"),
    ],
)
def test_another_attempt_may_help_after(kuberay: Object, run: Object | None, cls: str, counted: int) -> None:
    body = job(status=written("Training", run=run))
    decision = decide(world(body, rayjobs=[rayjob(**kuberay)]), PLATFORM)
    assert kinds(decision) == [SetStatus, Announce, DeleteRayJob]
    status = told(decision)
    assert (status.phase, status.failed, status.attempt) == ("Pending", counted, 1)
    assert status.body["failure"]["class"] == cls
    assert status.condition("Training")["reason"] == "Retrying"
    assert status.next_attempt
    assert 10 <= status.next_attempt - NOW <= 12.5
    seconds = status.next_attempt - NOW
    assert status.condition("Training")["message"].endswith(f"Attempt 2 starts after {seconds:.0f} s.")
    assert decision.revisit_after == seconds
    assert not status.ended
    (event,) = (each for each in decision.effects if isinstance(each, Announce))
    assert (event.type, event.reason) == ("Warning", status.body["failure"]["reason"])
    assert event.message == f"{cls}: {status.condition('Training')['message']}"


@pytest.mark.parametrize("cls", ["User", "Data"])
def test_no_other_attempt_helps_against_what_the_user_wrote(cls: str) -> None:
    body = job(status=written("Training", run=driver_said(cls)))
    status = told(decide(world(body, rayjobs=[rayjob(**APP_FAILED)]), PLATFORM))
    assert (status.phase, status.failed) == ("Failed", 1)
    assert status.condition("Failed")["reason"] == "Because"
    assert status.condition("Failed")["message"] == "Attempt 1 failed: It broke."
    assert status.holds("Stalled")
    assert status.next_attempt is None


def test_a_rayjob_that_is_missing_is_looked_for_before_its_attempt_is_given_up() -> None:
    decision = decide(world(job(status=written("Training"))), PLATFORM)
    assert kinds(decision) == [ConfirmGone, SetStatus, Announce]
    assert told(decision).body["failure"]["reason"] == "RayJobDeleted"
    last = decide(world(job(status=written("Training"), backoffLimit=0)), PLATFORM)
    assert kinds(last) == [ConfirmGone, SetStatus, Announce]


@pytest.mark.parametrize(
    ("limit", "before", "says"),
    [
        pytest.param(0, 0, "1 attempt failed", id="a single attempt"),
        pytest.param(3, 3, "4 attempts failed", id="the last of four"),
        pytest.param(1, 3, "4 attempts failed", id="the limit was lowered"),
    ],
)
def test_the_job_has_failed_when_as_many_attempts_have_as_it_may_have(limit: int, before: int, says: str) -> None:
    body = job(status=written("Training", before + 1, failed=before), backoffLimit=limit)
    decision = decide(world(body, rayjobs=[rayjob(before + 1, **APP_FAILED)]), PLATFORM)
    status = told(decision)
    assert status.ended
    assert (status.phase, status.failed) == ("Failed", before + 1)
    assert says in status.condition("Failed")["message"]
    assert "spec.backoffLimit" in status.condition("Failed")["message"]
    assert after(decision) == ["DriverEnded"]


def test_a_cluster_that_kuberay_would_leave_running_goes() -> None:
    """It ends a RayJob that it finds invalid, but not the cluster that this one has."""
    body = job(status=written("Training"), backoffLimit=0)
    assert deleted(decide(world(body, rayjobs=[rayjob(**VALIDATION_FAILED)]), PLATFORM)) == ["plays-1"]
    assert deleted(decide(world(body, rayjobs=[rayjob(**APP_FAILED)]), PLATFORM)) == []


# ── between two attempts ────────────────────────────────────────────────────────────────────────────────────────────


RETRYING = written("Pending", 1, failed=1, next_attempt=NOW + 7)
DUE = written("Pending", 1, failed=1, next_attempt=NOW)


def test_the_next_attempt_waits_for_its_time() -> None:
    decision = decide(world(job(status=RETRYING)), PLATFORM)
    assert decision == Decision((), revisit_after=7)


def test_a_deadline_may_come_before_it() -> None:
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
def test_and_for_the_last_one_to_be_gone(left: dict[str, Any], goes: list[str]) -> None:
    """Two attempts would write to the same place."""
    decision = decide(world(job(status=DUE), **left), PLATFORM)
    assert begun(decision) == []
    assert deleted(decision) == goes


def test_what_changes_meanwhile_is_acknowledged() -> None:
    body = job(status=DUE)
    body["metadata"]["generation"] = 2
    decision = decide(world(body, rayjobs=[rayjob(1)]), PLATFORM)
    assert told(decision).body["observedGeneration"] == 2
    assert told(decision).next_attempt == NOW
    assert deleted(decision) == ["plays-1"]


def test_then_it_starts_with_the_next_number_and_remembers_the_failure() -> None:
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


def test_then_it_starts_anew_and_so_does_its_time() -> None:
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
def test_one_that_may_not_go_on_yet_has_not_failed(before: Object) -> None:
    status = told(refused(world(job(status=before)), "QuotaExceeded", "The quota is used up.", final=False))
    again = decide(world(job(status=dict(status.body))), PLATFORM)
    assert begun(again) == [2]
    assert told(again).failed == Status(before).failed


def test_an_attempt_that_never_may_begin_fails_the_job() -> None:
    decision = refused(world(), "InvalidSpec", "Kubernetes does not like it.", final=True)
    assert told(decision).phase == "Failed"
    assert told(decision).condition("Failed")["message"] == "Kubernetes does not like it."


# ── deadline, end, deletion ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_over_its_deadline_fails_and_frees_its_gpus() -> None:
    body = job(status=written("Training"), activeDeadlineSeconds=60)
    decision = decide(world(body, rayjobs=[rayjob(**RUNNING)]), PLATFORM)
    assert kinds(decision) == [SetStatus, Announce, DeleteRayJob]
    assert told(decision).condition("Failed")["reason"] == "DeadlineExceeded"
    assert "spec.activeDeadlineSeconds" in told(decision).condition("Failed")["message"]
    assert told(decision).failed == 0


def test_one_within_it_is_looked_at_when_it_is_over() -> None:
    body = job(status=written("Training"), activeDeadlineSeconds=100)
    assert decide(world(body, rayjobs=[rayjob(**RUNNING)]), PLATFORM).revisit_after == 40


def ended(phase: str = "Succeeded", completion: float = NOW - 50) -> Object:
    kind = {"Succeeded": "Complete", "Failed": "Failed"}[phase]
    facts = {"Accepted": Fact(True, "Valid"), "Training": Fact(False, "x"), kind: Fact(True, "x")}
    return written(phase, completion=completion, facts=facts)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as it was"),
        pytest.param({"suspend": True}, id="suspended"),
        pytest.param({"backoffLimit": 9}, id="with more attempts"),
        pytest.param({"activeDeadlineSeconds": 1}, id="over its deadline"),
    ],
)
def test_a_job_that_has_ended_never_runs_again(phase: str, changes: Object) -> None:
    assert decide(world(job(status=ended(phase), **changes)), PLATFORM) == Decision()


def test_a_change_after_the_end_is_acknowledged_and_changes_nothing_else() -> None:
    """kstatus and Argo CD wait for observedGeneration."""
    body = job(status=ended() | {"run": {"attempt": 1, "stage": "Succeeded"}})
    body["metadata"]["generation"] = 2
    decision = decide(world(body), PLATFORM)
    assert kinds(decision) == [SetStatus]
    assert told(decision).body == ended() | {"observedGeneration": 2}


def test_after_the_end_only_the_children_go_in_their_time() -> None:
    body = job(status=ended(), ttlSecondsAfterFinished=60)
    kept = rayjob(**SUCCEEDED)
    assert decide(world(body, rayjobs=[kept]), PLATFORM) == Decision((), revisit_after=10)
    assert deleted(decide(world(body, rayjobs=[kept], now=NOW + 10), PLATFORM)) == ["plays-1"]
    assert decide(world(body, now=NOW + 10), PLATFORM) == Decision()
    at_once = job(status=ended(), ttlSecondsAfterFinished=0)
    assert deleted(decide(world(at_once, rayjobs=[kept]), PLATFORM)) == ["plays-1"]


def test_an_attempt_that_still_runs_after_the_end_goes() -> None:
    """The operator was killed between the status and the deletion."""
    body = job(status=ended("Failed"))
    assert deleted(decide(world(body, rayjobs=[rayjob(**RUNNING)]), PLATFORM)) == ["plays-1"]


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    assert decide(world(job(status=written("Training"), deleting=True), rayjobs=[rayjob(**RUNNING)]), PLATFORM) == (
        Decision()
    )


# ── a spec that cannot run ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_invalid_job_fails_without_an_attempt() -> None:
    decision = decide(world(job(resources={"pool": "h100"})), PLATFORM)
    assert kinds(decision) == [SetStatus, Announce]
    status = told(decision)
    assert (status.phase, status.attempt, status.failed) == ("Failed", 0, 0)
    assert status.condition("Accepted")["status"] == "False"
    assert status.condition("Failed")["reason"] == "InvalidSpec"
    assert status.condition("Failed")["message"].startswith("spec.resources.pool: there is no pool 'h100'.")


def test_a_pool_that_is_taken_away_ends_the_job_at_its_next_attempt() -> None:
    decision = decide(world(job(status=DUE)), Platform(checkpoint_uri="s3://runs"))
    assert told(decision).phase == "Failed"
    assert told(decision).attempt == 1


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────


OOM = pod("worker", ended=[worlds.ended("ray-worker", reason="OOMKilled", code=137)])


def test_a_worker_without_memory_ends_the_attempt_and_the_next_one_asks_for_less() -> None:
    server = ApiServer(job(backoffLimit=0))
    server.settle()
    for number in range(1, 7):
        server.kuberay(number, **RUNNING)
        worker = pod("worker", number, ended=[worlds.ended("ray-worker", reason="OOMKilled", code=137)])
        server.pods[worker["metadata"]["name"]] = worker
        server.logs["ray-worker"] = "Killed"
        server.settle()
        assert (server.status.out_of_memory, server.status.failed) == (number, 0)
        assert server.job["status"]["failure"]["log"] == "Killed"
        server.now += 13
        (start,) = (each for each in server.reconcile() if isinstance(each, Start))
        assert (start.attempt, start.out_of_memory) == (number + 1, number)
    server.kuberay(7, **RUNNING)
    server.pods["plays-7-x7k2p-worker"] = pod(
        "worker", 7, ended=[worlds.ended("ray-worker", reason="OOMKilled", code=137)]
    )
    server.settle()
    failed = server.status.condition("Failed")
    assert failed["reason"] == "OOMKilled"
    assert failed["message"].endswith("7 attempts ended so, each with less memory asked for than the one before.")


def test_a_head_without_memory_ends_the_job() -> None:
    head = pod(ended=[worlds.ended(reason="OOMKilled", code=137)])
    found = replace(world(job(status=written("Training")), rayjobs=[rayjob(**HEAD_LOST)], pods=[head]), log="")
    status = told(decide(found, PLATFORM))
    assert (status.phase, status.out_of_memory, status.failed) == ("Failed", 1, 0)
    assert "Raise spec.resources.head.memory" in status.condition("Failed")["message"]


# ── hangs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hang_is_a_condition_until_the_next_attempt_trains() -> None:
    server = ApiServer(job())
    server.settle()
    server.kuberay(1, **RUNNING)
    server.driver(1, **driver_said("Hang"))
    server.settle()
    server.kuberay(1, **APP_FAILED)
    stalled = []

    def look() -> None:
        server.settle()
        condition = server.status.condition("Stalled")
        stalled.append((server.status.phase, condition.get("status"), condition.get("reason")))

    look()
    server.now += 13
    look()
    server.kuberay(2, **RUNNING)
    server.driver(2, stage="Preparing")
    look()
    server.edit(suspend=True)
    look()
    server.edit(suspend=False)
    look()
    server.kuberay(3, **RUNNING)
    look()
    server.driver(3, stage="Training")
    look()
    hang = ("True", "Hang")
    assert stalled == [
        ("Pending", *hang),
        ("Pending", *hang),
        ("Preparing", *hang),
        ("Suspended", *hang),
        ("Pending", *hang),
        ("Preparing", *hang),
        ("Training", None, None),
    ]


def test_the_same_hang_twice_ends_the_job_and_says_so() -> None:
    server = ApiServer(job(backoffLimit=9))
    for number in (1, 2):
        server.settle()
        server.kuberay(number, **RUNNING)
        server.driver(number, **driver_said("Hang", message=f"No step for {number}40 s.", rank=3), step=12)
        server.settle()
        server.kuberay(number, **APP_FAILED)
        server.settle()
        server.now += 13
    failed = server.status.condition("Failed")
    assert failed["reason"] == "Because"
    assert failed["message"] == (
        "Attempt 2 failed: No step for 240 s. It failed the same way twice, at step 12, in attempts 1 and 2: another attempt "
        "cannot help."
    )
    assert server.events[-1].message == f"Hang: {failed['message']}"


# ── a deadline for pods ─────────────────────────────────────────────────────────────────────────────────────────────


STARTED = Books(current={"startTime": worlds.time(NOW - 60), "waitingSince": worlds.time(NOW - 60)})
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


def test_it_says_what_it_waited_for() -> None:
    body = job(status=written("Pending", books=STARTED), pendingDeadlineSeconds=60)
    found = world(body, rayjobs=[rayjob(jobDeploymentStatus="Initializing")], pods=[pod(), NO_ROOM])
    assert "3 Insufficient nvidia.com/gpu" in told(decide(found, PLATFORM)).condition("Failed")["message"]


def test_time_in_a_queue_does_not_count() -> None:
    body = job(status=written("Pending", books=STARTED), pendingDeadlineSeconds=60)
    queued = decide(world(body, rayjobs=[rayjob(suspend=True)]), PLATFORM)
    assert told(queued).condition("Training")["reason"] == "Queued"
    later = world(job(status=dict(told(queued).body), pendingDeadlineSeconds=60), rayjobs=[rayjob()], now=NOW + 1000)
    admitted = decide(later, PLATFORM)
    assert told(admitted).body["current"]["waitingSince"] == worlds.time(NOW + 1000)
    assert admitted.revisit_after == 60


def test_pods_that_ran_once_are_enough() -> None:
    """A worker that is replaced later is the driver's business."""
    assert STARTED.current
    books = Books(current={**STARTED.current, "runningTime": worlds.time(NOW - 30)})
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
def test_an_attempt_that_may_not_begin_waits_no_longer_than_that(before: Object, over: bool) -> None:
    body = job(status=before, pendingDeadlineSeconds=60)
    status = told(refused(world(body), "QuotaExceeded", "The quota is used up.", final=False))
    assert status.ended is over
    if over:
        message = status.condition("Failed")["message"]
        assert message.endswith("within 60 s: spec.pendingDeadlineSeconds. The quota is used up.")


# ── a whole life ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_from_the_first_attempt_over_a_failure_and_a_suspension_to_the_end() -> None:
    server = ApiServer(job())
    phases = []

    def look() -> None:
        server.settle()
        phases.append(server.status.phase)

    look()
    server.kuberay(1, jobDeploymentStatus="Initializing")
    look()
    server.kuberay(1, **RUNNING)
    look()
    server.driver(1, stage="Training")
    look()
    server.kuberay(1, **HEAD_LOST)
    look()
    server.now += 13
    look()
    server.kuberay(2, **RUNNING)
    server.driver(2, stage="Training", resumedFromStep=500)
    look()
    server.edit(suspend=True)
    look()
    server.edit(suspend=False)
    look()
    server.kuberay(3, **RUNNING)
    server.driver(3, stage="Evaluating")
    look()
    server.kuberay(3, **SUCCEEDED)
    server.driver(3, stage="Succeeded")
    look()
    assert phases == [
        "Pending",
        "Provisioning",
        "Preparing",
        "Training",
        "Pending",
        "Pending",
        "Training",
        "Suspended",
        "Pending",
        "Evaluating",
        "Succeeded",
    ]
    assert server.begun == [1, 2, 3]
    assert server.status.failed == 1
    assert server.status.body["observedGeneration"] == 3


def test_somebodys_copy_of_an_attempt_is_not_an_attempt() -> None:
    """It has our labels, but neither our name nor our trust."""
    copy = rayjob(1, **SUCCEEDED)
    copy["metadata"]["name"] = "plays-by-hand"
    seen = Seen(view_job(job(status=written("Training"))), (view_rayjob(copy), view_rayjob(rayjob(1, **RUNNING))), ())
    found = look(seen, NOW)
    assert found
    assert [each.name for each in found.rayjobs] == ["plays-1"]


def test_a_job_under_the_name_of_an_earlier_one_has_nothing_of_it() -> None:
    """Its predecessor's children go by themselves; they are neither adopted nor waited for."""
    seen = Seen(
        view_job(job(uid="new")),
        (view_rayjob(rayjob(1, uid="old", **RUNNING)), view_rayjob(rayjob(2, uid="old", **RUNNING))),
        (view_pod(pod(uid="old")),),
    )
    found = look(seen, NOW)
    assert isinstance(found, World)
    decision = decide(found, PLATFORM)
    assert begun(decision) == [1]
    assert deleted(decision) == []
    assert look(Seen(None, (), ()), NOW) is None
