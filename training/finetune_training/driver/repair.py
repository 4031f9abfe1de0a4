"""The ranks of an attempt, started again as long as that helps.

In: a `Task`, and the attempt that it is of. Out: trained, or the failure that nothing here mends. Ranks that were lost with
their process, pod or machine are started again from the last checkpoint, when there are machines for them again: the cluster
stays, and what was prepared stays. Ranks that ran out of memory are started with settings that need less of it (ladder.py).
Each start has a turn of its own, so that lost ranks that are still alive somewhere change nothing any more.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from finetune_training.contract.environment import OUT_OF_MEMORY
from finetune_training.contract.failure import Failure, FailureClass, FinetuneError, Reason, Terminated
from finetune_training.driver import ladder
from finetune_training.driver.attempt import Attempt
from finetune_training.driver.ladder import Memory
from finetune_training.driver.launch import launch
from finetune_training.driver.outcome import LOSSES
from finetune_training.driver.preemption import with_the_driver
from finetune_training.driver.ray_cluster import Placement, await_machines
from finetune_training.driver.signals import told_to_end
from finetune_training.events.progress import CheckpointSaved, Event, MemoryUse, Restarted, Stage, StageStarted, Trained
from finetune_training.worker.task import Task

STARTED_AGAIN: Final = (*LOSSES, Reason.MACHINE_TAKEN)
"""Reasons of failures after which ranks are started again, when there are machines for them."""
LOSSES_WITHOUT_CHECKPOINT = 3
"""So often ranks are started again after a loss without a new checkpoint in between: what is lost more often has a reason."""
REPLACED_WITHIN = 600.0
"""Seconds in which lost machines must be there again; the next attempt waits for them without holding the others."""

logger = logging.getLogger(__name__)


class Repair:
    """The ranks of `attempt`, at its newest turn."""

    def __init__(self, task: Task, attempt: Attempt, placement: Placement, on_event: Callable[[Event], None]) -> None:
        self.task, self.attempt = task, attempt
        self._placement, self._on_event = placement, on_event
        self._asked = Memory.of(task.job.spec)
        self._losses = self._restarts = 0

    def train(self) -> Trained:
        """Raises a FinetuneError."""
        self._take_over()
        while True:
            try:
                return launch(
                    self.task, spread=self._placement.spread, folder=self.attempt.folder, on_event=self._heard
                )
            except FinetuneError as error:
                self._mend(error)

    def _heard(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            self._losses = 0
        self._on_event(event)

    def _mend(self, error: FinetuneError) -> None:
        """Make ready for another start, or raise `error`."""
        failure = error.failure
        relieves = failure.cls is FailureClass.OUT_OF_MEMORY
        if not relieves and failure.reason not in STARTED_AGAIN:
            raise error
        if told_to_end():
            raise FinetuneError(with_the_driver(failure)) from error
        if relieves:
            self._relieve(error)
        else:
            self._replace(error)

    def _replace(self, error: FinetuneError) -> None:
        self._losses += 1
        if self._losses > LOSSES_WITHOUT_CHECKPOINT:
            raise FinetuneError(_once_too_often(error.failure)) from error
        logger.warning("The ranks are started again: %s", error.failure.message)
        self._on_event(StageStarted(Stage.STARTING, "waiting for machines"))
        try:
            there = await_machines(self._placement, seconds=REPLACED_WITHIN)
        except Terminated:  # the driver goes, too: what is known of the ranks says more than a signal does
            raise error from None
        if not there:
            raise FinetuneError(_not_replaced(error.failure)) from error
        self._again(self.attempt.memory)
        self._tell_restart(error.failure)

    def _relieve(self, error: FinetuneError) -> None:
        logger.warning("The ranks are started with less: %s", error.failure.message)
        self._step_down(error.failure)
        self._tell_restart(error.failure)
        self._tell_memory()

    def _take_over(self) -> None:
        """What earlier attempts have come to, and one step more for each container that was killed since."""
        for number in range(self._memory.told, _containers_killed()):
            self._step_down(_container_killed(number + 1), told=number + 1)
        self._use()
        self._tell_memory()

    @property
    def _memory(self) -> Memory:
        return self.attempt.memory or self._asked

    def _step_down(self, failure: Failure, told: int | None = None) -> None:
        before = self._memory
        self._again(self.attempt.memory)  # what is inherited from now on says whether the stage may change
        now = ladder.relieved(
            before,
            global_batch_size=self.task.job.spec.training.global_batch_size,
            ranks=self.task.ranks,
            anew=not self.attempt.inherited,
        )
        if now is None:
            raise FinetuneError(_nothing_left(failure, before))
        self._again(replace(now, told=before.told if told is None else told))

    def _again(self, memory: Memory | None) -> None:
        self.attempt = self.attempt.again(memory)
        self._use()

    def _use(self) -> None:
        job = self.task.job
        if self.attempt.memory:
            job = job.model_copy(update={"spec": self.attempt.memory.applied(job.spec)})
        self.task = replace(self.task, job=job, turn=self.attempt.turn, inherited=self.attempt.inherited)

    def _tell_restart(self, failure: Failure) -> None:
        self._restarts += 1
        self._on_event(Restarted(self._restarts, failure.message))

    def _tell_memory(self) -> None:
        now, change = self._memory, ladder.difference(self._asked, self._memory)
        self._on_event(
            MemoryUse(now.rung, now.micro_batch_size, now.gradient_checkpointing, now.stage, now.offload, change)
        )


def _containers_killed() -> int:
    """Containers of this run that the kernel has killed whole: only the platform sees that, and counts."""
    text = os.environ.get(OUT_OF_MEMORY, "")
    return int(text) if text.isdigit() else 0


def _container_killed(number: int) -> Failure:
    return Failure(
        FailureClass.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
        f"Containers of this run were killed {number} times for want of memory.",
    )


def _once_too_often(failure: Failure) -> Failure:
    times = LOSSES_WITHOUT_CHECKPOINT
    return replace(failure, message=f"{failure.message} It is the {times + 1}th loss since the last checkpoint.")


def _not_replaced(failure: Failure) -> Failure:
    waited = f"Nothing has replaced what was lost within {REPLACED_WITHIN / 60:.0f} min."
    return replace(failure, message=f"{failure.message} {waited}")


def _nothing_left(failure: Failure, memory: Memory) -> Failure:
    twice = str(memory.gradient_checkpointing).lower()
    tried = f"microBatchSize {memory.micro_batch_size}, gradientCheckpointing {twice}"
    engine = f"deepspeed stage {memory.stage} with offload {memory.offload}"
    return replace(
        failure,
        message=f"{failure.message} Nothing is left to give up: the run had {tried}, {engine}.",
        remedy="Use more or larger machines, more workers, a lower spec.dataset.maxLength, or LoRA, in a run of its own.",
    )
