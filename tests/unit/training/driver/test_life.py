"""Who is told of a run's end, once, and in which order."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest
from rich.console import Console

from finetune_training.contract.failure import Failure, FinetuneError, Terminated, infrastructure_error, user_error
from finetune_training.driver import life
from finetune_training.driver.attempt import Attempt, Request
from finetune_training.driver.life import AttemptFailed, Done, live
from finetune_training.events.result import RunResult
from finetune_training.status.writer import Outcome, StatusWriter
from tests.finished_run import JOB_YAML, result

RESULT = result()
Execute = Callable[[Request, Attempt], RunResult]


class Told(StatusWriter):
    """A cluster that takes note of when it was told."""

    def __init__(self, order: list[str]) -> None:
        self.order, self.outcomes = order, list[Outcome]()

    def end(self, outcome: Outcome) -> None:
        self.order.append("cluster")
        self.outcomes.append(outcome)

    def close(self) -> None:
        self.order.append("closed")


class Bench:
    """One command in a folder of its own; `order`: what has happened."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.status = Told(self.order)
        self.job, self.run = folder / "job.yaml", folder / "runs" / "shakespeare"
        self.job.write_text(JOB_YAML)
        self.screen, self.console = StringIO(), StringIO()
        self._execute: Execute = lambda request, attempt: RESULT
        patch.chdir(folder)
        patch.setattr(life, "status_for", lambda identity: self.status)
        patch.setattr(life, "quiet", self._quiet)
        for name in ("set_up_ray", "end_at_sigterm"):
            patch.setattr(life, name, lambda: None)
        patch.setitem(sys.modules, "finetune_training.driver.run", SimpleNamespace(execute=self._run))
        patch.setattr(Attempt, "keep", self._keep)
        self.keeps: BaseException | None = None

    def live(self, execute: Execute | None = None, *, fresh: bool = False) -> Done:
        self._execute = execute or self._execute
        return live(self.job, None, fresh=fresh, console=Console(file=self.console, width=500))

    def fails(self, error: BaseException) -> BaseException:
        def failing(request: Request, attempt: Attempt) -> RunResult:
            raise error

        with pytest.raises(BaseException) as raised:  # noqa: PT011
            self.live(failing)
        return raised.value

    @contextmanager
    def _quiet(self, log: Path) -> Iterator[TextIO]:
        log.touch()
        yield self.screen
        self.order.append("loud again")

    def _run(self, request: Request, attempt: Attempt, sinks: Sequence[Any]) -> RunResult:
        self.order.append("trained")
        assert sinks[-1] is self.status
        return self._execute(request, attempt)

    def _keep(self, *_: Any) -> None:
        self.order.append("kept")
        if self.keeps:
            raise self.keeps


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_result_is_told_when_the_logs_are_kept(bench: Bench) -> None:
    assert bench.live() == Done(RESULT, str(bench.run))
    assert bench.order == ["trained", "loud again", "kept", "cluster", "closed"]
    assert bench.status.outcomes == [RESULT]


def test_a_failure_is_told_once_and_before_the_logs_are_kept(bench: Bench) -> None:
    cause = infrastructure_error("WorkerLost", "Rank 1 is gone.")
    error = bench.fails(cause)
    assert isinstance(error, AttemptFailed)
    assert error.failure == cause.failure
    assert bench.order == ["trained", "cluster", "kept", "closed"]
    assert bench.status.outcomes == [cause.failure]
    failure = json.loads((bench.run / "attempts" / "1" / "failure.json").read_text())
    assert (failure["class"], failure["reason"]) == ("Infrastructure", "WorkerLost")
    assert "Rank 1 is gone." in bench.screen.getvalue()
    assert f"Log: {bench.run}/attempts/1/driver.log" in bench.screen.getvalue()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Terminated("SIGTERM"), 7), (SystemExit(), 1)])
def test_whatever_ends_an_attempt_has_an_exit_code(bench: Bench, error: BaseException, code: int) -> None:
    failed = bench.fails(error)
    assert isinstance(failed, AttemptFailed)
    assert failed.failure.exit_code == code
    assert len(bench.status.outcomes) == 1


def test_logs_that_cannot_be_kept_do_not_change_the_end(bench: Bench) -> None:
    bench.keeps = OSError("the store is away")
    assert isinstance(bench.fails(user_error("LossNotFinite", "NaN")), AttemptFailed)
    assert f"The attempt's logs stay in {bench.run}/attempts/1: the store is away" in bench.console.getvalue()
    assert [outcome.reason for outcome in bench.status.outcomes if isinstance(outcome, Failure)] == ["LossNotFinite"]


def test_a_failure_that_cannot_be_written_down_stays_what_it_is(bench: Bench) -> None:
    def failing(request: Request, attempt: Attempt) -> RunResult:
        (attempt.folder / "failure.json").mkdir()  # no file can be written there
        raise infrastructure_error("DiskFull", "No space left on device: /data")

    with pytest.raises(AttemptFailed) as raised:
        bench.live(failing)
    assert raised.value.failure.reason == "DiskFull"
    assert "failure.json could not be written" in bench.screen.getvalue()
    assert "No space left on device: /data" in bench.screen.getvalue()


def test_what_is_wrong_before_there_is_an_attempt_is_told_and_left_to_be_shown(bench: Bench) -> None:
    bench.job.write_text(f"{JOB_YAML}  trainin: {{}}\n")
    with pytest.raises(FinetuneError) as raised:
        bench.live()
    assert not isinstance(raised.value, AttemptFailed)
    assert bench.order == ["cluster", "closed"]
    assert bench.status.outcomes == [raised.value.failure]
    assert raised.value.failure.reason == "InvalidJob"
    assert (bench.screen.getvalue(), bench.run.exists()) == ("", False)


def test_a_run_that_is_done_makes_no_attempt_and_anew_makes_one(bench: Bench) -> None:
    def publishing(request: Request, attempt: Attempt) -> RunResult:
        attempt.store.put("result/metrics.json", RESULT.to_json())
        return RESULT

    assert not bench.live(publishing).already
    bench.order.clear()
    assert bench.live() == Done(RESULT, str(bench.run), already=True)
    assert bench.order == ["cluster", "closed"]
    assert not bench.live(fresh=True).already
    assert [path.name for path in (bench.run / "attempts").iterdir()] == ["2"]
