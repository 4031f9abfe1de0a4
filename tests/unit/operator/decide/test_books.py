"""The books of a job: what is in them, and when it gets there."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.settings import Platform
from finetune_training.contract.moment import seconds
from tests.unit.operator import worlds
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.worlds import APP_FAILED, HEAD_LOST, NOW, RUNNING, SUCCEEDED, Object, job, pod

SPENT = {"preparing": 10, "starting": 5, "training": 60, "evaluating": 1, "exporting": 0, "checkpointing": 2, "lost": 0}
FAILED: Object = {"class": "Infrastructure", "reason": "StoreUnavailable", "message": "The store is away.", "rank": 1}


def started(attempt: int = 1, **changes: Any) -> ApiServer:
    """A server on which the attempt has begun a minute ago, and all its pods run."""
    server = ApiServer(job(**changes))
    server.settle()
    server.now += 60
    server.kuberay(attempt, **RUNNING)
    server.settle()
    return server


def trained(server: ApiServer, attempt: int = 1, seconds: float = 100, **run: Any) -> ApiServer:
    """The driver has said so after so many seconds."""
    server.now += seconds
    said = {"step": 50, "checkpoint": {"uri": "s3://x", "step": 40, "time": worlds.time(server.now)}, "seconds": SPENT}
    server.driver(attempt, **{"stage": "Training", **said, **run})
    server.settle()
    return server


def attempts(server: ApiServer) -> list[Object]:
    found: list[Object] = server.job["status"].get("attempts", [])
    return found


def usage(server: ApiServer) -> Object:
    found: Object = server.job["status"]["usage"]
    return found


# ── what an attempt leaves ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_attempt_that_failed_leaves_its_failure_times_and_checkpoint() -> None:
    server = trained(started(), resumedFromStep=20, restarts=2, failure=FAILED)
    server.kuberay(1, **APP_FAILED | {"endTime": worlds.time(server.now)})
    server.settle()
    assert attempts(server) == [
        {
            "attempt": 1,
            "class": "Infrastructure",
            "reason": "StoreUnavailable",
            "message": "The store is away.",
            "rank": 1,
            "startTime": worlds.time(NOW),
            "endTime": worlds.time(NOW + 160),
            "resumedFromStep": 20,
            "step": 50,
            "checkpointStep": 40,
            "lostSteps": 10,
            "restarts": 2,
            "logs": "s3://runs/team/plays/11111111-aaaa/attempts/1",
        }
    ]
    assert "current" not in server.job["status"]


def test_an_attempt_that_succeeded_has_lost_no_steps_and_has_its_time_counted() -> None:
    server = trained(started(), stage="Succeeded")
    server.kuberay(1, **SUCCEEDED | {"endTime": worlds.time(server.now)})
    server.settle()
    (entry,) = attempts(server)
    assert (entry["class"], entry["reason"]) == ("", "Succeeded")
    assert "lostSteps" not in entry
    assert usage(server) == {
        "waitingSeconds": 60, "startingSeconds": 27, "preparingSeconds": 10, "trainingSeconds": 60, "evaluatingSeconds": 1,
        "exportingSeconds": 0, "checkpointSeconds": 2, "lostSeconds": 0, "totalSeconds": 160, "gpuSeconds": 100, "goodput": 0.375,
    }  # fmt: skip


def test_an_attempt_whose_driver_said_nothing_has_the_checkpoint_of_the_attempt_before() -> None:
    server = trained(started(), failure=FAILED)
    server.kuberay(1, **HEAD_LOST)
    server.settle()
    server.now += 20
    server.settle()
    server.kuberay(2, **HEAD_LOST)
    server.settle()
    assert [each.get("checkpointStep") for each in attempts(server)] == [40, 40]
    assert "step" not in attempts(server)[1]


def lost_at_50() -> ApiServer:
    """An attempt whose head was lost at step 50, with checkpoint 40 the last of which it could say."""
    server = trained(started())
    server.job["status"]["run"] |= {"resumedFromStep": 20, "restarts": 1, "seconds": SPENT | {"sinceCheckpoint": 20}}
    server.kuberay(1, **HEAD_LOST | {"endTime": worlds.time(server.now)})
    server.settle()
    server.now += 20
    server.settle()
    server.kuberay(2, **RUNNING)
    server.settle()
    return server


@pytest.mark.parametrize(
    ("said", "checkpoint", "lost"),
    [
        ({"stage": "Starting"}, 40, 10),
        ({"stage": "Training", "resumedFromStep": 48}, 48, 2),  # committed after its last word
        ({"stage": "Training", "resumedFromStep": 50}, 50, 0),
        ({"stage": "Training", "resumedFromStep": 40, "step": 45}, 40, 10),
        ({"stage": "Training", "resumedFromStep": 30}, 30, 20),  # 40 was damaged
        ({"stage": "Training", "step": 1}, 0, 50),  # all were
        ({"stage": "Training", "resumedFromStep": 60, "restarts": 1}, 40, 10),  # from one of its own
        ({"stage": "Succeeded", "step": 50}, 40, 10),  # finds that the one before has done all
    ],
    ids=str,
)
def test_what_an_attempt_lost_is_known_when_the_next_goes_on(said: Object, checkpoint: int, lost: int) -> None:
    server = lost_at_50()
    before = usage(server)
    server.driver(2, **said)
    server.settle()
    (entry,) = attempts(server)
    assert (entry["checkpointStep"], entry["lostSteps"]) == (checkpoint, lost)
    found = 2 * (10 - lost)  # two seconds a step
    moved = max(-before["trainingSeconds"], min(before["lostSeconds"], found))
    assert usage(server)["trainingSeconds"] == before["trainingSeconds"] + moved
    assert usage(server)["lostSeconds"] == before["lostSeconds"] - moved
    assert usage(server)["goodput"] == pytest.approx(
        usage(server)["trainingSeconds"] / usage(server)["totalSeconds"], abs=5e-4
    )


def test_a_later_restart_of_an_attempt_does_not_change_what_the_attempt_before_lost() -> None:
    server = lost_at_50()
    server.driver(2, stage="Training", resumedFromStep=48, step=49)
    server.settle()
    server.driver(2, stage="Training", resumedFromStep=60, step=60, restarts=1)
    server.settle()
    assert attempts(server)[0]["lostSteps"] == 2


def test_what_an_attempt_lost_is_known_also_through_an_attempt_that_never_trained() -> None:
    server = lost_at_50()
    server.kuberay(2, **HEAD_LOST)
    server.settle()
    server.now += 100
    server.settle()
    server.kuberay(3, **RUNNING)
    server.driver(3, stage="Training", resumedFromStep=48)
    server.settle()
    assert [each.get("lostSteps") for each in attempts(server)] == [2, None]


def test_an_attempt_ends_when_kuberay_saw_its_end_not_when_the_operator_did() -> None:
    server = trained(started())
    end = worlds.time(server.now)
    server.now += 3600
    server.kuberay(1, **SUCCEEDED | {"endTime": end})
    server.settle()
    assert attempts(server)[0]["endTime"] == end
    assert usage(server)["totalSeconds"] == 160


def test_only_the_last_ten_attempts_are_kept() -> None:
    server = ApiServer(job(backoffLimit=50))
    for number in range(1, 13):
        server.settle()
        server.kuberay(number, **HEAD_LOST)
        server.settle()
        server.now += 500
    assert [each["attempt"] for each in attempts(server)] == list(range(3, 13))
    assert usage(server)["totalSeconds"] >= 11 * 500


def test_messages_of_attempts_are_short() -> None:
    server = trained(started(), failure=FAILED | {"message": "m" * 1000})
    server.kuberay(1, **APP_FAILED)
    server.settle()
    assert attempts(server)[0]["message"] == "m" * 256


@pytest.mark.parametrize("changes", [{"activeDeadlineSeconds": 300}, {"pendingDeadlineSeconds": 300}], ids=str)
def test_a_deadline_ends_the_attempt_under_its_own_reason(changes: Object) -> None:
    server = ApiServer(job(**changes))
    server.settle()
    server.now += 301
    server.settle()
    (entry,) = attempts(server)
    reason = {"activeDeadlineSeconds": "DeadlineExceeded", "pendingDeadlineSeconds": "PendingDeadlineExceeded"}
    assert (entry["class"], entry["reason"]) == ("", reason[next(iter(changes))])
    assert usage(server)["waitingSeconds"] == 301


# ── who is taken away has time to save ──────────────────────────────────────────────────────────────────────────────


def test_a_suspended_attempt_ends_when_its_pods_are_gone() -> None:
    server = trained(started())
    server.edit(suspend=True)
    server.reconcile()
    assert attempts(server) == []
    server.now += 20
    server.driver(1, stage="Failed", step=52, checkpoint={"uri": "s3://x", "step": 52, "time": worlds.time(server.now)})
    server.settle()
    (entry,) = attempts(server)
    assert (entry["class"], entry["reason"], entry["lostSteps"]) == ("", "Suspended", 0)
    assert entry["endTime"] == worlds.time(NOW + 180)


def test_an_attempt_that_a_queue_took_back_ends_when_the_next_begins() -> None:
    server = trained(started())
    server.rayjobs["plays-1"]["spec"]["suspend"] = True
    server.reconcile()
    assert attempts(server) == []
    server.now += 10
    server.settle()
    (entry,) = attempts(server)
    assert (entry["class"], entry["reason"], entry["lostSteps"]) == ("Preempted", "Preempted", 10)
    assert server.status.attempt == 2
    assert server.status.failed == 0


def test_a_job_that_fails_when_it_should_go_on_has_a_suspended_attempt() -> None:
    """Its pool was taken away meanwhile: that is not how the attempt ended."""
    server = trained(started())
    server.edit(suspend=True)
    server.reconcile()
    server.edit(suspend=False)
    server.rayjobs, server.pods = {}, {}
    server.reconcile(Platform(checkpoint_uri="s3://runs"))
    assert server.status.condition("Failed")["reason"] == "InvalidSpec"
    assert [each["reason"] for each in attempts(server)] == ["Suspended"]
    assert "current" not in server.job["status"]


def test_time_in_suspension_is_nobodys() -> None:
    server = trained(started())
    server.edit(suspend=True)
    server.settle()
    server.now += 10_000
    server.edit(suspend=False)
    server.settle()
    server.now += 30
    server.kuberay(2, **RUNNING)
    server.settle()
    server.kuberay(2, **HEAD_LOST | {"endTime": worlds.time(server.now)})
    server.settle()
    assert [each["attempt"] for each in attempts(server)] == [1, 2]
    assert usage(server)["totalSeconds"] == 160 + 30


def test_time_of_a_suspension_between_two_attempts_is_nobodys() -> None:
    server = started()
    server.kuberay(1, **HEAD_LOST | {"endTime": worlds.time(server.now)})
    server.settle()
    server.edit(suspend=True)
    server.settle()
    server.now += 10_000
    server.edit(suspend=False)
    server.settle()
    server.kuberay(2, **HEAD_LOST | {"endTime": worlds.time(server.now)})
    server.settle()
    assert usage(server)["totalSeconds"] == 60


def test_the_pause_between_two_attempts_is_waiting() -> None:
    server = started()
    server.kuberay(1, **HEAD_LOST | {"endTime": worlds.time(server.now)})
    server.settle()
    server.now += 30
    server.settle()
    assert server.job["status"]["current"]["pauseSeconds"] == 30
    server.kuberay(2, **HEAD_LOST | {"endTime": worlds.time(server.now)})
    server.settle()
    assert (usage(server)["waitingSeconds"], usage(server)["totalSeconds"]) == (90, 90)


# ── the attempt that runs ───────────────────────────────────────────────────────────────────────────────────────────


def current(server: ApiServer) -> dict[str, float]:
    """Its times, as seconds after NOW."""
    times = server.job["status"]["current"]
    return {
        name: (seconds(value) or 0) - NOW for name, value in times.items() if isinstance(value, str) and "T" in value
    }


def test_when_an_attempt_got_its_nodes_and_ran_is_taken_from_its_pods() -> None:
    server = ApiServer(job(resources={"pool": "a100", "workers": 2, "gpusPerWorker": 4}))
    server.settle()
    server.now += 100
    pods = [pod(), pod("worker", runs=-30), pod("worker", runs=-50, suffix="-2")]
    server.pods = {each["metadata"]["name"]: each for each in pods}
    server.rayjobs["plays-1"]["status"] = RUNNING
    server.settle()
    assert current(server) == {"startTime": 0, "waitingSince": 0, "scheduledTime": 40, "runningTime": 50}
    assert server.job["status"]["current"]["gpuSeconds"] == 20 * 4
    server.now += 1000
    server.kuberay(1, **SUCCEEDED | {"endTime": worlds.time(NOW + 540)})
    server.settle()
    assert usage(server)["gpuSeconds"] == 20 * 4 + 500 * 8


def test_a_worker_that_is_replaced_does_not_change_when_its_attempt_ran() -> None:
    server = started()
    before = server.job["status"]["current"]
    server.now += 100
    server.pods["plays-1-x7k2p-worker"] = pod("worker", runs=-90, suffix="-2")
    assert server.reconcile() == ()
    assert server.job["status"]["current"] == before


def test_pods_that_a_queue_took_back_are_waited_for_anew() -> None:
    """Before the driver's first word the same attempt goes on when it is admitted again."""
    server = started()
    server.rayjobs["plays-1"]["spec"]["suspend"] = True
    server.settle()
    assert current(server).keys() == {"startTime"}
    server.now += 500
    server.rayjobs["plays-1"]["spec"]["suspend"] = False
    server.rayjobs["plays-1"]["status"] = {"jobDeploymentStatus": "Initializing"}
    server.settle()
    assert current(server)["waitingSince"] == 560


def test_pods_that_never_all_came_held_gpus_too() -> None:
    server = ApiServer(job(resources={"pool": "a100", "workers": 2, "gpusPerWorker": 8}, activeDeadlineSeconds=100))
    server.settle()
    one = pod("worker", runs=-20)
    server.pods[one["metadata"]["name"]] = one
    server.now += 100
    server.settle()
    assert usage(server)["gpuSeconds"] == 90 * 8


def test_a_status_of_before_there_were_books_gets_some() -> None:
    """The operator was upgraded while the attempt ran."""
    server = ApiServer(
        job(status=worlds.status("Training")), rayjobs=(worlds.rayjob(age=50, **RUNNING),), pods=(pod(),)
    )
    server.settle()
    assert current(server)["startTime"] == -50
    server.kuberay(1, **SUCCEEDED | {"endTime": worlds.time(server.now)})
    server.settle()
    assert [each["reason"] for each in attempts(server)] == ["Succeeded"]
