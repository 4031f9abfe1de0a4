"""What happens around each optimizer step of one rank: measure, report, agree, save, evaluate.

In: the Trainer's callbacks. Out: progress events from rank 0, and the same decision on every rank: go on, save,
evaluate or stop.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState

from finetune_training.checkpoint.manifest import Reached
from finetune_training.checkpoint.save import Checkpointer
from finetune_training.checkpoint.world import World
from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.contract.spec import RunSpec
from finetune_training.events.progress import Away, Evaluated, Report, Stage, StageStarted, Step
from finetune_training.events.result import Scores
from finetune_training.worker.container import host_memory
from finetune_training.worker.isolation import check_isolation
from finetune_training.worker.objective import ExactSFTTrainer

_RECENT = 20


class Steps(TrainerCallback):  # type: ignore[misc]
    """The run's heartbeat. `report` is called on rank 0 only and answers whether the run should stop. `goes_on`: from a
    checkpoint of this very run, whose model has been checked when it began."""

    def __init__(
        self,
        spec: RunSpec,
        *,
        world: World,
        report: Callable[[Report], bool],
        checkpointer: Checkpointer,
        validation: Dataset | None,
        baseline: Scores | None,
        goes_on: bool,
    ) -> None:
        self._spec, self._world, self._report = spec, world, report
        self._checkpointer, self._validation = checkpointer, validation
        self.baseline = baseline
        self._goes_on = goes_on
        self.trainer: ExactSFTTrainer | None = None
        self.interrupted = False
        self._away = False
        self._lengths: Any = None
        self._rows: Any = None
        self._step_started = 0.0
        self._recent: list[float] = []
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: ExactSFTTrainer) -> None:
        """The trainer takes its callbacks when it is made, so it can only be known afterwards."""
        self.trainer = trainer
        self._lengths = sample_lengths(trainer.train_dataset)
        self._rows = trainer.train_dataset.select_columns("row_ids")

    def on_batch(self) -> None:
        """The samples of the next step are about to be read."""
        if self._away and self._world.rank == 0:
            self._report(Away(over=True))
        self._away = False
        self._step_started = time.perf_counter()

    def save(self, trainer: ExactSFTTrainer) -> None:
        step, plan = trainer.state.global_step, trainer.plan
        reached = Reached(
            step=step,
            samples=min(step * plan.global_batch_size, plan.positions),
            epoch=plan.epoch_at(step),
            metrics=self._metrics,
            baseline=self.baseline,
        )
        self._checkpointer.save(trainer.write_state, reached, estimate=trainer.state_bytes())

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert self.trainer is not None
        if self._spec.dataset.packing and not self._goes_on:
            self._check_isolation(self.trainer)
        if (
            self.baseline and self._world.rank == 0
        ):  # known from the checkpoint; this attempt's metrics should have it too
            scores = self.baseline
            self._report(Evaluated(0, scores.loss, scores.perplexity, scores.supervised_tokens, baseline=True))
        if state.global_step == 0 and self._spec.evaluation.baseline and self._validation is not None:
            if self._world.rank == 0:
                self._report(StageStarted(Stage.EVALUATING, "the base model"))
            self.baseline = self.evaluate(baseline=True)
        if self._world.rank == 0:
            self._report(StageStarted(Stage.TRAINING))

    def _check_isolation(self, trainer: ExactSFTTrainer) -> None:
        check_isolation(
            trainer.model_wrapped,
            trainer.data_collator,
            rows=trainer.args.per_device_train_batch_size,
            length=self._spec.dataset.max_length,
            vocabulary=min(len(trainer.processing_class), trainer.model.config.get_text_config().vocab_size),
            device=trainer.args.device,
            world=self._world,
        )

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        if "learning_rate" not in logs:  # the Trainer's summary at the end
            return
        step = self._measure(state, logs)
        stop = self._world.gather(self._report(step) if self._world.rank == 0 else False)[0]
        self._check_finite(step)
        self._metrics = {"loss": step.loss}
        self._checkpointer.poll()
        last = state.global_step >= state.max_steps
        checkpoint, evaluation = self._spec.checkpoint, self._spec.evaluation
        control.should_save = stop or last or _due(state.global_step, checkpoint.every_steps)
        control.should_training_stop = control.should_training_stop or stop
        self.interrupted = stop and not last
        evaluates = (
            _due(state.global_step, evaluation.every_steps) and not (last or stop) and self._validation is not None
        )
        self._away = control.should_save or evaluates
        if self._away and self._world.rank == 0:
            self._report(Away())
        if evaluates:
            self._metrics["evalLoss"] = self.evaluate(baseline=False).loss

    def evaluate(self, *, baseline: bool) -> Scores:
        """Collective. The scores on the held-out samples, reported."""
        assert self.trainer is not None
        assert self._validation is not None
        began = time.perf_counter()
        loss, tokens = self.trainer.held_out_loss(self._validation)
        scores = Scores(loss=loss, perplexity=math.exp(min(loss, 700.0)), supervised_tokens=tokens)
        if self._world.rank == 0:
            seconds = time.perf_counter() - began
            self._report(Evaluated(self.trainer.state.global_step, loss, scores.perplexity, tokens, baseline, seconds))
        return scores

    def _measure(self, state: TrainerState, logs: dict[str, Any]) -> Step:
        """Collective."""
        assert self.trainer is not None
        seconds = time.perf_counter() - self._step_started
        self._recent = [*self._recent, seconds][-_RECENT:]
        told = self._world.gather((self.trainer.used, host_memory().peak))
        used = sorted(index for samples, _ in told for index in samples)
        tokens = int(self._lengths[used].sum())
        return Step(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=round(self.trainer.plan.epoch_at(state.global_step), 4),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            gradient_norm=logs.get("grad_norm"),
            tokens=tokens,
            supervised_tokens=self.trainer.supervised_tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            eta_seconds=(state.max_steps - state.global_step) * fmean(self._recent),
            memory_peak=max((peak for _, peak in told if peak), default=None),
            rows=checksum(self._rows[used]["row_ids"]),
        )

    def _check_finite(self, step: Step) -> None:
        """What is not finite never recovers, and must not be saved."""
        if not math.isfinite(step.loss):
            raise _diverged(f"The loss of step {step.step} is {step.loss}.")
        if step.gradient_norm is not None and not math.isfinite(step.gradient_norm):
            raise _diverged(f"The gradient of step {step.step} has norm {step.gradient_norm}.")


def sample_lengths(dataset: Dataset) -> Any:
    """Tokens in each sample, read from the Arrow offsets."""
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in dataset.data.column("input_ids").chunks]
    return np.concatenate(lengths)


def checksum(row_ids: Iterable[Iterable[int]]) -> str:
    """Of the rows in some samples, whatever the order of either."""
    rows = sorted(row for sample in row_ids for row in sample)
    return f"{zlib.crc32(np.asarray(rows, dtype='<i8').tobytes()):08x}"


def _diverged(what: str) -> FinetuneError:
    return user_error(
        "LossNotFinite",
        what,
        "Lower spec.training.learningRate, or set spec.training.precision: FP32 to see whether BF16 is the cause.",
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
