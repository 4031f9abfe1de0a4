"""What holds however often the operator is killed, and whatever happens meanwhile."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_operator import names
from finetune_operator.decide.effects import DeleteRayJob, SetStatus, Start
from finetune_operator.decide.picture import Fact
from tests.unit.operator import worlds
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.worlds import (
    APP_FAILED,
    HEAD_LOST,
    NOW,
    RUNNING,
    STOPPED,
    SUBMISSION_FAILED,
    SUCCEEDED,
    VALIDATION_FAILED,
    Object,
    job,
    pod,
    rayjob,
)
from tests.unit.operator.worlds import status as written

DUE = written("Pending", 1, failed=1, next_attempt=NOW)
SUSPENDED = {"Training": Fact(False, "Suspended"), "Suspended": Fact(True, "Suspended")}
USER: Object = {"stage": "Failed", "failure": {"class": "User", "reason": "BadSpec", "message": "No."}}

OOM = pod("worker", ended=[worlds.ended("ray-worker", reason="OOMKilled", code=137)])
HANG: Object = {
    "stage": "Failed",
    "failure": {"class": "Hang", "reason": "NoProgress", "message": "Rank 1 does nothing."},
}
LESS: Object = {"rung": 1, "microBatchSize": 1, "gradientCheckpointing": True, "offload": "Optimizer", "stage": 3}
BEGAN: Object = {"startTime": worlds.time(NOW - 60), "waitingSince": worlds.time(NOW - 60)}
OPEN = worlds.books(current=BEGAN)
HUNG: Object = {"attempt": 1, "class": "Hang", "reason": "NoProgress", "message": "Rank 1 does nothing.",
                "startTime": worlds.time(NOW - 90), "endTime": worlds.time(NOW - 70)}  # fmt: skip
ONCE = worlds.books((HUNG,), current=BEGAN)

WORLDS: dict[str, dict[str, Any]] = {
    "a new job": {"job": job()},
    "a new job that is suspended": {"job": job(suspend=True)},
    "a new job that is invalid": {"job": job(resources={"pool": "none"})},
    "an attempt that the status does not know": {"job": job(), "rayjobs": (rayjob(),)},
    "an attempt that runs": {"job": job(status=written("Pending")), "rayjobs": (rayjob(**RUNNING),), "pods": (pod(),)},
    "one that succeeded": {"job": job(status=written("Exporting")), "rayjobs": (rayjob(**SUCCEEDED),)},
    "one that failed": {"job": job(status=written("Training")), "rayjobs": (rayjob(**HEAD_LOST),), "pods": (pod(),)},
    "the last that failed": {
        "job": job(status=written("Training"), backoffLimit=0),
        "rayjobs": (rayjob(**VALIDATION_FAILED),),
        "pods": (pod(),),
    },
    "one that no other can mend": {"job": job(status=written("Training", run=USER)), "rayjobs": (rayjob(**APP_FAILED),)},
    "one that is lost": {"job": job(status=written("Training"))},
    "one whose time has come": {"job": job(status=DUE)},
    "one that the status does not know": {"job": job(status=DUE), "rayjobs": (rayjob(2),)},
    "one whose predecessor is still there": {"job": job(status=DUE), "rayjobs": (rayjob(),), "pods": (pod(),)},
    "one that is suspended": {
        "job": job(status=written("Training"), suspend=True),
        "rayjobs": (rayjob(**RUNNING),),
        "pods": (pod(),),
    },
    "one that is resumed": {"job": job(status=written("Suspended", start=None)), "pods": (pod(deleting=True),)},
    "one over its deadline": {
        "job": job(status=written("Training"), activeDeadlineSeconds=1),
        "rayjobs": (rayjob(**RUNNING),),
        "pods": (pod(),),
    },
    "one that nobody has explained": {
        "job": job(status=written("Training", books=OPEN)), "rayjobs": (rayjob(**APP_FAILED),), "pods": (pod(), pod("worker")),
    },
    "one whose worker was killed for its memory": {
        "job": job(status=written("Training", books=OPEN, out_of_memory=1)), "rayjobs": (rayjob(**RUNNING),), "pods": (OOM,),
    },
    "the last of those": {
        "job": job(status=written("Training", books=OPEN, out_of_memory=6)), "rayjobs": (rayjob(**RUNNING),), "pods": (OOM,),
    },
    "one that hung": {"job": job(status=written("Training", run=HANG, books=OPEN)), "rayjobs": (rayjob(**APP_FAILED),)},
    "one that hung twice": {
        "job": job(status=written("Training", 2, run=HANG, books=ONCE, failed=1)), "rayjobs": (rayjob(2, **APP_FAILED),),
    },
    "one that goes on with less memory": {
        "job": job(status=written("Training", run={"stage": "Training", "memory": LESS}, books=OPEN)),
        "rayjobs": (rayjob(**RUNNING),),
    },
    "one that has waited too long": {
        "job": job(status=written("Pending", books=OPEN), pendingDeadlineSeconds=60), "rayjobs": (rayjob(),), "pods": (pod(),),
    },
    "one that a queue took back": {
        "job": job(status=written("Training", run={"stage": "Training"}, books=OPEN)),
        "rayjobs": (rayjob(suspend=True, jobDeploymentStatus="Suspended"),),
    },
    "one that was suspended, and whose pods are gone": {
        "job": job(status=written("Suspended", start=None, books=OPEN, facts=SUSPENDED), suspend=True),
    },
    "one that was resumed before they were": {
        "job": job(status=written("Suspended", start=None, books=OPEN, facts=SUSPENDED)), "pods": (pod(deleting=True),),
    },
    "an end whose children go": {
        "job": job(status=written("Succeeded", completion=NOW - 9), ttlSecondsAfterFinished=5),
        "rayjobs": (rayjob(**SUCCEEDED),),
    },
}  # fmt: skip


def outcome(server: ApiServer) -> tuple[Object, list[str], list[str], list[int]]:
    return server.job["status"], sorted(server.rayjobs), sorted(server.pods), server.begun


@pytest.mark.parametrize("name", WORLDS)
def test_an_operator_killed_after_any_effect_comes_to_the_same_end(name: str) -> None:
    objects = copy.deepcopy(WORLDS[name])
    body = objects.pop("job")
    whole = ApiServer(body, **objects)
    decided = whole.reconcile()
    whole.settle()
    for number in range(len(decided)):
        server = ApiServer(body, **objects)
        assert server.reconcile(killed_after=number) == decided
        server.settle()
        assert outcome(server) == outcome(whole), f"killed after {number} of {decided}"


@pytest.mark.parametrize("name", WORLDS)
def test_deciding_again_after_executing_gives_no_effects(name: str) -> None:
    """But where the next step had to wait for a deletion."""
    objects = copy.deepcopy(WORLDS[name])
    server = ApiServer(objects.pop("job"), **objects)
    if any(isinstance(each, DeleteRayJob) for each in server.reconcile()):
        server.settle()
    assert server.reconcile() == ()


class Lives(RuleBasedStateMachine):
    """Anything that can happen to a job, in any order; the operator looks now and then, and is killed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ApiServer(job())
        self.first = 1
        self.ended: tuple[str, Object] | None = None
        self.failures: dict[int, int] = {}
        self.memory: dict[int, int] = {}
        self.books: list[Object] = []
        """All that was ever in `status.attempts`."""
        self.seconds = 0

    @initialize(name=st.sampled_from(sorted(WORLDS)))
    def begin(self, name: str) -> None:
        objects = copy.deepcopy(WORLDS[name])
        self.server = ApiServer(objects.pop("job"), **objects)
        self.server.begun = list(range(1, self.server.world().attempt + 1))
        self.first = self.server.world().attempt + 1

    @property
    def attempt(self) -> int | None:
        """Of the RayJob that lives."""
        live = [each for name, each in self.server.rayjobs.items() if name in self.server.live]
        return int(live[0]["metadata"]["labels"][names.ATTEMPT_LABEL]) if live else None

    @rule()
    def work(self) -> None:
        self.look(None)

    @rule()
    def work_until_the_next_attempt(self) -> None:
        self.come_to_rest()
        self.server.now += 400
        self.look(None)

    @rule(killed_after=st.integers(0, 4))
    def work_and_be_killed(self, killed_after: int) -> None:
        self.look(killed_after)

    def look(self, killed_after: int | None) -> None:
        before = self.server.status
        effects = self.server.reconcile(killed_after=killed_after)
        if before.ended:
            assert not any(isinstance(each, Start) for each in effects)
        assert len(self.server.live) <= 1, "no two at a time"
        failed = self.server.status.failed - before.failed
        assert failed in (0, 1)
        if failed:
            counted = self.failures[before.attempt] = self.failures.get(before.attempt, 0) + 1
            assert counted == 1, "an attempt fails once"
        out_of_memory = self.server.status.out_of_memory - before.out_of_memory
        assert out_of_memory in (0, 1)
        if out_of_memory:
            counted = self.memory[before.attempt] = self.memory.get(before.attempt, 0) + 1
            assert counted == 1, "and is short of memory once"
        statuses = [each for each in effects if isinstance(each, SetStatus)]
        assert len(statuses) <= 1
        # After a deletion the next step follows, and after a takeover what the attempt has come to meanwhile.
        if killed_after is None and not any(isinstance(each, DeleteRayJob | Start) for each in effects):
            assert self.server.reconcile() == (), "looking again changes nothing"

    @precondition(lambda self: self.attempt)
    @rule(
        status=st.sampled_from(
            [RUNNING, SUCCEEDED, STOPPED, APP_FAILED, HEAD_LOST, SUBMISSION_FAILED, VALIDATION_FAILED]
        )
    )
    def kuberay_writes(self, status: Object) -> None:
        assert self.attempt
        rayjob = self.server.rayjobs[names.child_name("plays", self.attempt)]
        if rayjob["status"].get("jobDeploymentStatus") in (None, "Running"):
            self.server.kuberay(self.attempt, **status)

    # The driver runs only in an attempt that the status knows: the others have no right to report.
    @precondition(lambda self: self.attempt and self.attempt == self.server.status.attempt)
    @rule(stage=st.sampled_from(["Preparing", "Training", "Evaluating", "Succeeded"]))
    def driver_reports(self, stage: str) -> None:
        assert self.attempt
        self.server.driver(self.attempt, stage=stage, seconds={"training": 5, "sinceCheckpoint": 2})

    @precondition(lambda self: self.attempt and self.attempt == self.server.status.attempt)
    @rule(cls=st.sampled_from(["User", "Infrastructure", "Hang", "Preempted", "OutOfMemory"]), step=st.integers(1, 3))
    def driver_fails(self, cls: str, step: int) -> None:
        assert self.attempt
        failure = {"class": cls, "reason": "X", "message": ""}
        self.server.driver(self.attempt, stage="Failed", failure=failure, step=step)

    @precondition(lambda self: self.attempt and self.attempt == self.server.status.attempt)
    @rule(rung=st.integers(0, 3))
    def driver_takes_less_memory(self, rung: int) -> None:
        assert self.attempt
        self.server.driver(self.attempt, stage="Training", memory=LESS | {"rung": rung})

    @precondition(lambda self: self.attempt)
    @rule(code=st.sampled_from([137, 139]), reason=st.sampled_from(["OOMKilled", "Error"]))
    def a_worker_is_killed(self, code: int, reason: str) -> None:
        assert self.attempt
        worker = pod("worker", self.attempt, ended=[worlds.ended("ray-worker", reason=reason, code=code)])
        if "deletionTimestamp" not in self.server.pods.get(worker["metadata"]["name"], {"metadata": {}})["metadata"]:
            self.server.pods[worker["metadata"]["name"]] = worker

    @precondition(lambda self: self.attempt)
    @rule(suspend=st.booleans())
    def a_queue_takes_or_gives(self, suspend: bool) -> None:
        assert self.attempt
        rayjob = self.server.rayjobs[names.child_name("plays", self.attempt)]
        if rayjob["status"].get("jobDeploymentStatus") in (None, "Running", "Suspended"):
            rayjob["spec"]["suspend"] = suspend
            rayjob["status"] = {"jobDeploymentStatus": "Suspended"} if suspend else {}

    # Of one that the status does not know yet, and that is gone, nobody knows.
    @precondition(lambda self: self.attempt and self.attempt == self.server.status.attempt)
    @rule()
    def somebody_deletes_the_rayjob(self) -> None:
        assert self.attempt
        self.server.delete_rayjob(names.child_name("plays", self.attempt))

    @rule()
    def pods_end(self) -> None:
        self.server.collect()

    @rule(seconds=st.sampled_from([1, 15, 400]))
    def time_passes(self, seconds: int) -> None:
        self.server.now += seconds

    @rule(suspend=st.booleans())
    def suspend_or_resume(self, suspend: bool) -> None:
        self.server.edit(suspend=suspend)

    @rule(limit=st.integers(0, 3))
    def another_backoff_limit(self, limit: int) -> None:
        self.server.edit(backoffLimit=limit)

    @rule()
    def a_deadline(self) -> None:
        self.server.edit(activeDeadlineSeconds=300)

    @rule()
    def a_deadline_for_pods(self) -> None:
        self.server.edit(pendingDeadlineSeconds=30)

    @rule()
    def the_children_go_after_a_minute(self) -> None:
        self.server.edit(ttlSecondsAfterFinished=60)

    @invariant()
    def never_two_at_a_time(self) -> None:
        assert len(self.server.live) <= 1

    @invariant()
    def no_number_twice(self) -> None:
        assert self.server.begun == sorted(set(self.server.begun))

    @invariant()
    def every_attempt_is_in_the_books_once_and_stays_as_it_was_written(self) -> None:
        status, known = self.server.status, {each["attempt"]: each for each in self.books}
        numbers = [each["attempt"] for each in status.attempts]
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= 10
        for each in status.attempts:
            assert known.setdefault(each["attempt"], dict(each)) == each
        self.books = list(known.values())
        # Those that the test began with may have none.
        assert set(range(self.first, status.attempt)) <= known.keys()
        if status.ended and status.attempt >= self.first:
            assert status.attempt in known
            assert not status.body.get("current")

    @invariant()
    def usage_only_grows(self) -> None:
        usage = self.server.status.body.get("usage") or {}
        assert usage.get("totalSeconds", 0) >= self.seconds
        self.seconds = usage.get("totalSeconds", 0)
        assert 0 <= usage.get("goodput", 0) <= 1

    @invariant()
    def the_end_is_the_end(self) -> None:
        status = self.server.status
        if self.ended:
            phase, before = self.ended
            assert status.phase == phase
            assert status.body["conditions"] == before
        elif status.ended:
            self.ended = status.phase, copy.deepcopy(status.body["conditions"])

    def teardown(self) -> None:
        self.come_to_rest()

    def come_to_rest(self) -> None:
        """Wherever that is, nothing that has ended holds a GPU."""
        self.server.settle()
        if self.server.status.ended or self.server.job["spec"]["suspend"]:
            for each in self.server.rayjobs.values():
                assert each["status"].get("jobDeploymentStatus") in ("Complete", "Failed")


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=200, stateful_step_count=30, deadline=None, derandomize=True)
