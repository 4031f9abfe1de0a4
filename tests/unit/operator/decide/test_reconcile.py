"""What is decided about a job, over its whole life."""

from __future__ import annotations

import pytest

from finetune_operator.decide.decision import Decision
from finetune_operator.decide.effects import Announce, DeleteRayJob, SetStatus, Start
from finetune_operator.decide.picture import Fact
from finetune_operator.decide.reconcile import decide
from finetune_operator.observe.store import Seen
from finetune_operator.observe.views import view_job, view_pod, view_rayjob
from finetune_operator.observe.world import World, look
from finetune_operator.settings import Platform
from tests.unit.operator import worlds
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.decisions import DUE, begun, deleted, kinds, told
from tests.unit.operator.worlds import HEAD_LOST, NOW, PLATFORM, RUNNING, SUCCEEDED, Object, job, pod, rayjob, world
from tests.unit.operator.worlds import status as written

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
def test_a_later_attempts_rayjob_of_which_the_status_does_not_know_is_taken_over(before: Object) -> None:
    """Deleting it would give its number to a second RayJob, whose driver would find itself fenced by the first."""
    decision = decide(world(job(status=before), rayjobs=[rayjob(2)]), PLATFORM)
    assert begun(decision) == [2]
    assert deleted(decision) == []
    assert told(decision).attempt == 2
    assert told(decision).next_attempt is None
    assert not told(decision).holds("Suspended")


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


# ── deadline, end, deletion ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_over_its_deadline_fails_and_frees_its_gpus() -> None:
    body = job(status=written("Training"), activeDeadlineSeconds=60)
    decision = decide(world(body, rayjobs=[rayjob(**RUNNING)]), PLATFORM)
    assert kinds(decision) == [SetStatus, Announce, DeleteRayJob]
    assert told(decision).condition("Failed")["reason"] == "DeadlineExceeded"
    assert "spec.activeDeadlineSeconds" in told(decision).condition("Failed")["message"]
    assert told(decision).failed == 0


def test_a_job_within_its_deadline_is_looked_at_when_the_deadline_is_over() -> None:
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


# ── a whole life ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_lives_from_its_first_attempt_over_a_failure_and_a_suspension_to_its_success() -> None:
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
