"""What is started again, how often, and with what: the claims are real, the ranks are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_training.checkpoint.manifest import manifest_key
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.failure import Failure, FailureClass, FinetuneError, Terminated, user_error
from finetune_training.contract.spec import Job, Offload
from finetune_training.data.shards import DataManifest, Histogram, Statistics
from finetune_training.driver import repair
from finetune_training.driver.attempt import Attempt, claim
from finetune_training.driver.ladder import Memory
from finetune_training.driver.ray_cluster import Placement
from finetune_training.driver.repair import LOSSES_WITHOUT_CHECKPOINT, Repair
from finetune_training.events.progress import CheckpointSaved, Event, MemoryUse, Restarted, Trained
from finetune_training.store.storage import Store
from finetune_training.worker.task import Task

DONE = Trained(9, interrupted=False)
Launch = Callable[[Task, Callable[[Event], None]], Trained]


def failing(cls: FailureClass, reason: str) -> FinetuneError:
    return FinetuneError(Failure(cls, reason, "It broke.", rank=1))


LOST = failing(FailureClass.INFRASTRUCTURE, "WorkerLost")
SHORT = failing(FailureClass.OUT_OF_MEMORY, "OutOfMemory")


class Bench:
    """An attempt whose launches do, one after the other, what the test says."""

    def __init__(self, store: Store, patch: pytest.MonkeyPatch, *, machines: bool | BaseException = True) -> None:
        self.store, self.tasks, self.events = store, list[Task](), list[Event]()
        self._launches: list[Trained | FinetuneError | Launch] = []
        self._machines = machines
        patch.setattr(repair, "launch", self._launch)
        patch.setattr(repair, "await_machines", self._await)

    def train(
        self, *launches: Trained | FinetuneError | Launch, attempt: Attempt | None = None, micro_batch: int = 4
    ) -> Repair:
        self._launches, self.tasks, self.events = list(launches), [], []
        attempt = attempt or claim(self.store)
        self.repair = Repair(
            task_of(self.store, attempt, micro_batch), attempt, Placement(ranks=2, on_gpu=False), self.events.append
        )
        assert self.repair.train() == DONE
        assert not self._launches
        return self.repair

    def failure(self, *launches: Trained | FinetuneError | Launch) -> Failure:
        with pytest.raises(FinetuneError) as raised:
            self.train(*launches)
        assert not self._launches
        return raised.value.failure

    @property
    def turns(self) -> list[str]:
        return [str(task.turn) for task in self.tasks]

    @property
    def micro_batches(self) -> list[int]:
        return [task.job.spec.training.micro_batch_size for task in self.tasks]

    def _launch(self, task: Task, *, spread: bool, folder: Path, on_event: Callable[[Event], None]) -> Trained:
        self.tasks.append(task)
        match self._launches.pop(0):
            case Trained() as trained:
                return trained
            case FinetuneError() as error:
                raise error
            case launch:
                return launch(task, on_event)

    def _await(self, *_: Any, **__: Any) -> bool:
        if isinstance(self._machines, BaseException):
            raise self._machines
        return self._machines


def task_of(store: Store, attempt: Attempt, micro_batch: int) -> Task:
    spec = {
        "model": {"uri": "m"},
        "dataset": {"train": [{"uri": "d.jsonl"}]},
        "training": {"globalBatchSize": 16, "microBatchSize": micro_batch, "gradientCheckpointing": True},
        "deepspeed": {"stage": 2},
    }
    job = Job.model_validate({"name": "run", "spec": spec})
    statistics = Statistics(1, {}, 0, 0, 1, 1, 1.0, Histogram([1, 2], [1]))
    return Task(
        job=job, base=job.spec.model, turn=attempt.turn, inherited=attempt.inherited, store=store,
        data=DataManifest("d", 8, [], [], statistics), ranks=2, on_gpu=False, staging=Path("/nowhere"), versions={},
    )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(Store(str(tmp_path / "run")), monkeypatch)


def test_lost_ranks_start_again_with_a_turn_of_their_own(bench: Bench) -> None:
    done = bench.train(LOST, LOST, DONE)
    assert bench.turns == ["1", "1.1", "1.2"]
    assert (done.attempt.turn, done.task.turn) == (Turn(1, 2), Turn(1, 2))
    assert [(event.restart, event.why) for event in bench.events if isinstance(event, Restarted)] == [
        (1, "It broke."),
        (2, "It broke."),
    ]
    assert claim(bench.store).turn == Turn(2)


@pytest.mark.parametrize("reason", ["WorkerLost", "NodeLost", "ClusterLost", "Collective", "MachineTaken"])
def test_what_machines_do_to_ranks_is_repaired(bench: Bench, reason: str) -> None:
    bench.train(failing(FailureClass.INFRASTRUCTURE, reason), DONE)
    assert bench.turns == ["1", "1.1"]


@pytest.mark.parametrize(
    "error",
    [
        user_error("LossNotFinite", "NaN"),
        failing(FailureClass.PREEMPTED, "Preempted"),
        failing(FailureClass.INTERRUPTED, "Interrupted"),
        failing(FailureClass.HANG, "Hang"),
        failing(FailureClass.FENCED, "Fenced"),
        failing(FailureClass.INFRASTRUCTURE, "StoreUnavailable"),
        failing(FailureClass.UNKNOWN, "Unknown"),
    ],
    ids=lambda error: error.failure.reason,
)
def test_what_is_no_loss_ends_the_attempt(bench: Bench, error: FinetuneError) -> None:
    assert bench.failure(error) is error.failure


def test_too_many_losses_without_a_checkpoint_end_the_attempt(bench: Bench) -> None:
    failure = bench.failure(*[LOST] * (LOSSES_WITHOUT_CHECKPOINT + 1))
    assert failure.reason == "WorkerLost"
    assert "4th loss since the last checkpoint" in failure.message


def test_a_checkpoint_between_losses_gives_new_credit(bench: Bench) -> None:
    def saves(_: Task, tell: Callable[[Event], None]) -> Trained:
        tell(CheckpointSaved(5, "", 1, 0.0))
        raise LOST

    bench.train(*[LOST] * LOSSES_WITHOUT_CHECKPOINT, saves, LOST, LOST, DONE)
    assert bench.turns[-1] == "1.6"


def test_machines_that_do_not_come_back_end_the_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(Store(str(tmp_path / "run")), monkeypatch, machines=False)
    failure = bench.failure(LOST)
    assert failure.message == "It broke. Nothing has replaced what was lost within 10 min."
    assert bench.turns == ["1"]


def test_a_driver_that_is_told_to_end_while_it_waits_says_what_became_of_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(Store(str(tmp_path / "run")), monkeypatch, machines=Terminated("SIGTERM"))
    taken = failing(FailureClass.PREEMPTED, "MachineTaken")
    assert bench.failure(taken) is taken.failure


@pytest.mark.parametrize("error", [LOST, SHORT, failing(FailureClass.PREEMPTED, "MachineTaken")], ids=str)
def test_a_driver_that_was_told_to_end_starts_nothing_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: FinetuneError
) -> None:
    monkeypatch.setattr(repair, "told_to_end", lambda: True)
    failure = bench.failure(error)
    assert (failure.cls, failure.reason) == (FailureClass.PREEMPTED, "Preempted")
    assert failure.message == "The driver was told to end (SIGTERM). It broke."
    assert bench.turns == ["1"]


def test_memory_that_runs_out_is_given_less_work_at_a_time(bench: Bench) -> None:
    done = bench.train(SHORT, SHORT, DONE)
    assert bench.micro_batches == [4, 2, 1]
    told = [event for event in bench.events if isinstance(event, MemoryUse)]
    assert [(event.rung, event.micro_batch_size, event.change) for event in told] == [
        (0, 4, ""),
        (1, 2, "training.microBatchSize 4 -> 2"),
        (2, 1, "training.microBatchSize 4 -> 1"),
    ]
    assert done.attempt.memory == Memory(1, True, 2, Offload.NONE, rung=2)


def test_later_attempts_take_over_what_was_found_and_starting_anew_does_not(bench: Bench) -> None:
    bench.train(SHORT, DONE)
    bench.train(LOST, DONE)
    assert bench.micro_batches == [2, 2]
    assert isinstance(bench.events[0], MemoryUse)
    assert bench.events[0].rung == 1
    bench.train(DONE, attempt=claim(bench.store, anew=True))
    assert bench.micro_batches == [4]


def test_memory_that_runs_out_when_nothing_is_left_to_give_up_says_what_was_tried(bench: Bench) -> None:
    # 4, 2, 1 samples; stage 3; offload of the optimizer, then of the parameters.
    failure = bench.failure(*[SHORT] * 6)
    assert failure.cls is FailureClass.OUT_OF_MEMORY
    assert "Nothing is left to give up: the run had microBatchSize 1" in failure.message
    assert "deepspeed stage 3 with offload OptimizerAndParameters" in failure.message


def test_the_stage_stays_where_there_is_a_checkpoint_when_memory_runs_out(bench: Bench) -> None:
    def saves(task: Task, _: Callable[[Event], None]) -> Trained:
        task.store.put(manifest_key(f"step-00000005-a{task.turn}"), b"{}")
        raise SHORT

    bench.train(saves, DONE, micro_batch=1)
    spec = bench.tasks[-1].job.spec
    assert (spec.deepspeed.stage, spec.deepspeed.offload) == (2, Offload.OPTIMIZER)
    assert bench.tasks[-1].inherited == ["step-00000005-a1"]


def test_containers_that_the_platform_saw_killed_count_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_OUT_OF_MEMORY", "1")
    bench.train(DONE)
    assert bench.micro_batches == [2]
    bench.train(SHORT, DONE)
    assert bench.micro_batches == [2, 1]
    monkeypatch.setenv("FINETUNE_OUT_OF_MEMORY", "2")
    bench.train(DONE)
    spec = bench.tasks[0].job.spec
    assert (bench.micro_batches, spec.deepspeed.stage) == ([1], 3)
    monkeypatch.setenv("FINETUNE_OUT_OF_MEMORY", "5")
    assert "Containers of this run were killed 5 times" in bench.failure().message
