"""What is decided about a job whose attempt runs."""

from __future__ import annotations

import pytest

from finetune_operator.decide.effects import ForgetPod
from finetune_operator.decide.reconcile import decide, refused
from finetune_operator.observe.world import LOST_AFTER
from tests.unit.operator import worlds
from tests.unit.operator.decisions import announced, begun, deleted, told
from tests.unit.operator.worlds import NOW, PLATFORM, RUNNING, job, pod, rayjob, world
from tests.unit.operator.worlds import status as written


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
    assert announced(decision) == [phase]


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
