"""What happens around each optimizer step of one rank: measure, report, agree, save, evaluate.

In: a trainer, and as one of its callbacks what it tells. Out: progress events from rank 0, and the same decision on every rank:
go on, save, evaluate or stop.
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
from transformers import TrainerControl, TrainerState

from finetune_training.checkpoint.manifest import Reached
from finetune_training.checkpoint.save import Checkpointer
from finetune_training.checkpoint.world import World
from finetune_training.contract.spec import RunSpec
from finetune_training.events.progress import Away, Evaluated, Report, Stage, StageStarted, Step
from finetune_training.events.result import Scores
from finetune_training.worker.container import host_memory
from finetune_training.worker.divergence import Divergence
from finetune_training.worker.isolation import check_isolation
from finetune_training.worker.objective import ExactSFTTrainer, StepCallback
from finetune_training.worker.start import Start

_RECENT = 20


class Steps(StepCallback):
    """The run's heartbeat. `report` answers whether the run should stop; on other ranks than the first it does nothing."""

    def __init__(
        self,
        trainer: ExactSFTTrainer,
        begin: Start,
        spec: RunSpec,
        *,
        world: World,
        report: Callable[[Report], bool],
        checkpointer: Checkpointer,
        validation: Dataset | None,
    ) -> None:
        self._trainer, self._begin, self._spec = trainer, begin, spec
        self._world, self._report = world, report
        self._checkpointer, self._validation = checkpointer, validation
        self.interrupted = False
        self._baseline = begin.baseline
        self._lengths = sample_lengths(trainer.train_dataset)
        self._rows = trainer.train_dataset.select_columns("row_ids")
        self._away = False
        self._step_started = 0.0
        self._recent: list[float] = []
        self._metrics: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._spec.dataset.packing and not self._begin.own:  # else it was checked when the run began
            self._check_isolation()
        if known := self._baseline:  # from the checkpoint; this attempt's metrics should have it too
            self._report(Evaluated(0, known.loss, known.perplexity, known.supervised_tokens, baseline=True))
        if state.global_step == 0 and self._spec.evaluation.baseline and self._validation is not None:
            self._report(StageStarted(Stage.EVALUATING, "the base model"))
            self._baseline = self._evaluate(self._validation, baseline=True)
        self._divergence = Divergence(self._vocabulary, self._baseline)
        self._report(StageStarted(Stage.TRAINING))

    def on_batch(self) -> None:
        if self._away:
            self._report(Away(over=True))
        self._away = False
        self._step_started = time.perf_counter()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        if "learning_rate" not in logs:  # the Trainer's summary at the end
            return
        step = self._measure(state, logs)
        stop = self._world.gather(self._report(step))[0]
        self._divergence.check(step)
        self._metrics = {"loss": step.loss}
        self._checkpointer.poll()
        last = state.global_step >= state.max_steps
        due = _due(state.global_step, self._spec.checkpoint.every_steps) and not self._divergence.in_doubt
        control.should_save = stop or last or due
        control.should_training_stop = control.should_training_stop or stop
        self.interrupted = stop and not last
        scores = _due(state.global_step, self._spec.evaluation.every_steps) and not (last or stop)
        scored = self._validation if scores else None
        self._away = control.should_save or scored is not None
        if self._away:
            self._report(Away())
        if scored is not None:
            self._metrics["evalLoss"] = self._evaluate(scored, baseline=False).loss

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, plan = state.global_step, self._trainer.plan
        reached = Reached(
            step=step,
            samples=min(step * plan.global_batch_size, plan.positions),
            epoch=plan.epoch_at(step),
            metrics=self._metrics,
            baseline=self._baseline,
        )
        self._checkpointer.save(self._trainer.write_state, reached, estimate=self._trainer.state_bytes())

    def finish(self) -> None:
        """After the last step: its checkpoint is committed, and unless it was interrupted the run has its last scores.
        Collective."""
        self._checkpointer.flush()
        if not self.interrupted and self._validation is not None:
            self._report(StageStarted(Stage.EVALUATING))
            tuned = self._evaluate(self._validation, baseline=False)
            if warning := self._divergence.compare(self._baseline, tuned):
                self._report(warning)

    @property
    def _vocabulary(self) -> int:
        trainer = self._trainer
        tokens = len(trainer.processing_class)
        return min(tokens, int(getattr(trainer.model.config.get_text_config(), "vocab_size", tokens)))

    def _evaluate(self, held_out: Dataset, *, baseline: bool) -> Scores:
        """Collective. The scores on the held-out samples, reported."""
        began = time.perf_counter()
        loss, tokens = self._trainer.held_out_loss(held_out)
        scores = Scores(loss=loss, perplexity=math.exp(min(loss, 700.0)), supervised_tokens=tokens)
        seconds, step = time.perf_counter() - began, self._trainer.state.global_step
        self._report(Evaluated(step, loss, scores.perplexity, tokens, baseline, seconds))
        return scores

    def _check_isolation(self) -> None:
        trainer = self._trainer
        check_isolation(
            trainer.model_wrapped,
            trainer.data_collator,
            rows=trainer.args.per_device_train_batch_size,
            length=self._spec.dataset.max_length,
            vocabulary=self._vocabulary,
            device=trainer.args.device,
            world=self._world,
        )

    def _measure(self, state: TrainerState, logs: dict[str, Any]) -> Step:
        """Collective."""
        seconds = time.perf_counter() - self._step_started
        self._recent = [*self._recent, seconds][-_RECENT:]
        told = self._world.gather((self._trainer.used, host_memory().peak))
        used = sorted(index for samples, _ in told for index in samples)
        tokens = int(self._lengths[used].sum())
        return Step(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=round(self._trainer.plan.epoch_at(state.global_step), 4),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            gradient_norm=logs.get("grad_norm"),
            tokens=tokens,
            supervised_tokens=self._trainer.supervised_tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            eta_seconds=(state.max_steps - state.global_step) * fmean(self._recent),
            memory_peak=max((peak for _, peak in told if peak), default=None),
            rows=checksum(self._rows[used]["row_ids"]),
        )


def sample_lengths(dataset: Dataset) -> Any:
    """Tokens in each sample, read from the Arrow offsets."""
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in dataset.data.column("input_ids").chunks]
    return np.concatenate(lengths)


def checksum(row_ids: Iterable[Iterable[int]]) -> str:
    """Of the rows in some samples, whatever the order of either."""
    rows = sorted(row for sample in row_ids for row in sample)
    return f"{zlib.crc32(np.asarray(rows, dtype='<i8').tobytes()):08x}"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
