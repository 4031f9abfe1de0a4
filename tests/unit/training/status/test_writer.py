"""When `status.run` is written, and what its writer does about refusals. The API server here is a list of answers: a real
one is in tests/integration."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from typing import Any

import pytest

from finetune_training.contract.failure import Failure, FailureClass
from finetune_training.contract.jobfile import Identity, identity_in
from finetune_training.events.progress import Stage, StageStarted
from finetune_training.status.apiserver import Answer, Unreachable
from finetune_training.status.writer import ClusterStatusWriter, Pace, StatusWriter, body, status_for, status_path
from tests.finished_run import step

RARE = Pace(between=3600, pause=0.001, longest_pause=0.01, end=20)
FAILURE = Failure(FailureClass.INFRASTRUCTURE, "WorkerLost", "Rank 1 is gone.", "Run it again.", rank=1)


class Answers:
    """Answers each write as it is told, then always with 200. `written`: what came, refused or not."""

    def __init__(self, *answers: Answer | Exception, before: Callable[[], None] = lambda: None) -> None:
        self.written: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers, self._before = list(answers), before

    def __call__(self, run: dict[str, Any]) -> Answer:
        self._before()
        self.written.put(run)
        answer = self._answers.pop(0) if self._answers else Answer(200)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def next(self) -> dict[str, Any]:
        return self.written.get(timeout=20)

    def rest(self) -> list[dict[str, Any]]:
        return [self.written.get() for _ in range(self.written.qsize())]


def test_the_status_is_written_at_once_when_the_stage_changes_and_not_at_each_step() -> None:
    server = Answers()
    with ClusterStatusWriter(1, server, RARE) as status:
        assert server.next()["stage"] == "Preparing"
        for number in range(1, 50):
            status.show(step(number))
        status.show(StageStarted(Stage.TRAINING))
        assert (found := server.next())["stage"] == "Training"
        assert found["step"] == 49
        status.show(step(50))
        assert server.rest() == []
    assert [run["step"] for run in server.rest()] == [50]


def test_steps_are_written_into_the_status_after_a_while() -> None:
    server = Answers()
    with ClusterStatusWriter(1, server, Pace(between=0.01)) as status:
        server.next()
        status.show(step(1))
        assert server.next()["step"] == 1
        status.show(step(2))
        assert server.next()["step"] == 2


def test_a_server_that_hangs_does_not_delay_the_training() -> None:
    hold: queue.Queue[None] = queue.Queue()
    server = Answers(before=lambda: hold.get(timeout=20))
    status = ClusterStatusWriter(1, server, RARE)
    started = time.monotonic()
    for number in range(1, 1000):
        status.show(step(number))
    assert time.monotonic() - started < 2
    for _ in range(2):
        hold.put(None)
    status.close()
    assert [run.get("step") for run in server.rest()] == [None, 999] or server.written.empty()


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(409, "Operation cannot be fulfilled: please try again"),
        Answer(429),
        Answer(503),
        Answer(401),
        Answer(403, "RBAC: not yet loaded"),
        Unreachable("reset"),
    ],
)
def test_trouble_that_may_pass_is_tried_again_with_the_newest_state(
    trouble: Answer | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    server = Answers(trouble, trouble)
    with ClusterStatusWriter(1, server, RARE) as status:
        status.end(FAILURE)
    assert server.rest()[-1]["failure"]["reason"] == "WorkerLost"
    assert len(caplog.records) <= 2
    assert "cannot be written now" in caplog.text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(404, "not found"), "is gone"),
        (Answer(422, "status.run.step: Invalid value"), "refuses it (HTTP 422: status.run.step"),
    ],
)
def test_a_refusal_is_said_once_and_ends_the_writing(
    answer: Answer, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Answers(answer)
    with ClusterStatusWriter(1, server, RARE) as status:
        server.next()
        status.show(StageStarted(Stage.TRAINING))
        status.end(FAILURE)
    assert server.rest() == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert said in caplog.text


def test_the_first_end_of_a_run_counts_and_nothing_is_written_after_the_end() -> None:
    server = Answers()
    with ClusterStatusWriter(1, server, RARE) as status:
        status.end(FAILURE)
        status.end(Failure(FailureClass.UNKNOWN, "Unknown", "Exit"))
        status.show(StageStarted(Stage.TRAINING))
    assert server.rest()[-1]["failure"]["reason"] == "WorkerLost"


def test_the_end_of_a_run_does_not_wait_for_the_api_server_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    server = Answers(*[Unreachable("gone")] * 10_000)
    started = time.monotonic()
    with ClusterStatusWriter(1, server, Pace(pause=0.01, longest_pause=0.01, end=0.2)) as status:
        status.end(FAILURE)
    assert time.monotonic() - started < 5
    assert "could not be written to status.run within 0.2 s" in caplog.text


@pytest.mark.parametrize(
    ("environment", "job", "warned"),
    [
        ({}, "metadata: {name: a, uid: u}", False),
        ({"FINETUNE_STATUS": "true", "FINETUNE_ATTEMPT": "1"}, "metadata: {name: a}", True),
        ({"FINETUNE_STATUS": "true"}, "metadata: {name: a, uid: u}", True),
        ({"FINETUNE_STATUS": "true", "FINETUNE_ATTEMPT": "1"}, "metadata: [", True),
    ],
)
def test_the_status_is_written_on_clusters_only(
    environment: dict[str, str],
    job: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("FINETUNE_STATUS", "FINETUNE_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"KUBERNETES_SERVICE_HOST": "192.0.2.1", **environment}.items():
        monkeypatch.setenv(name, value)
    with status_for(identity_in(job)) as status:
        assert type(status) is StatusWriter
    assert bool(caplog.records) == warned


def test_what_is_written_is_applied_to_the_status_of_the_job_at_that_version() -> None:
    identity = Identity("team", "plays", "1-2")
    assert status_path(identity) == "/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs/plays/status"
    applied = body(identity, {"attempt": 1}, version="7")
    assert (applied["apiVersion"], applied["kind"]) == ("finetune.dev/v1alpha1", "FineTuneJob")
    assert applied["metadata"] == {"name": "plays", "namespace": "team", "resourceVersion": "7"}
