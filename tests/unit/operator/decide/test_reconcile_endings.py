"""What is decided about a job whose attempt ends: succeeded, failed, without memory, or hanging."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.decide.effects import Announce, ConfirmGone, DeleteRayJob, SetStatus, Start
from finetune_operator.decide.reconcile import decide
from tests.unit.operator import worlds
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.decisions import announced, deleted, kinds, told
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
    assert announced(decision) == ["Succeeded"]


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
    assert announced(decision) == ["DriverEnded"]


def test_a_cluster_that_kuberay_would_leave_running_goes() -> None:
    """It ends a RayJob that it finds invalid, but not the cluster that this one has."""
    body = job(status=written("Training"), backoffLimit=0)
    assert deleted(decide(world(body, rayjobs=[rayjob(**VALIDATION_FAILED)]), PLATFORM)) == ["plays-1"]
    assert deleted(decide(world(body, rayjobs=[rayjob(**APP_FAILED)]), PLATFORM)) == []


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
