"""Progress events → `status.run`, as a cluster's users and its operator read it.

In: events, and at last what came of the run. Out: a `RunState`, and of it the `RunStatus` that the API has. Pure: who writes it
where, and how often, is writer.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from finetune_training.contract.failure import AGAIN, Failure
from finetune_training.contract.moment import timestamp
from finetune_training.contract.run import (
    MESSAGE_MAX,
    ArtifactStatus,
    CheckpointStatus,
    EvaluationStatus,
    FailureStatus,
    RunMemoryStatus,
    RunStage,
    RunStatus,
    SecondsStatus,
)
from finetune_training.events import wording
from finetune_training.events.progress import (
    CheckpointSaved,
    Evaluated,
    Event,
    MemoryUse,
    Prepared,
    Restarted,
    Resumed,
    Stage,
    StageStarted,
    Step,
)
from finetune_training.events.result import Artifact, RunResult
from finetune_training.events.usage import Usage

_STAGES = {Stage.STARTING: Stage.PREPARING}
"""To a user of the API the ranks' start is a part of the preparation."""
_ENDS = (Stage.SUCCEEDED, Stage.FAILED)
_COUNTED = 40
"""Characters in which a message that was cut says by how much."""


@dataclass(frozen=True)
class RunState:
    """What is known of an attempt, in all digits."""

    attempt: int
    stage: Stage = Stage.PREPARING
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    useful_token_ratio: float | None = None
    eta_seconds: float | None = None
    resumed_from_step: int | None = None
    checkpoint: CheckpointSaved | None = None
    baseline: float | None = None
    tuned: float | None = None
    artifacts: tuple[Artifact, ...] = ()
    restarts: int = 0
    memory: MemoryUse | None = None
    memory_peak: int | None = None
    usage: Usage = field(default_factory=Usage)
    failure: Failure | None = None

    def after(self, event: Event) -> RunState:
        """What is known once `event` has happened."""
        return replace(self._known_after(event), usage=self.usage.after(event))

    def _known_after(self, event: Event) -> RunState:
        match event:
            case StageStarted() if event.stage not in _ENDS:  # the end is told by `ended`, with what came of it
                return self._in(_STAGES.get(event.stage, event.stage))
            case Prepared():
                return replace(self, useful_token_ratio=event.useful_token_ratio)
            case Resumed():
                return replace(self, step=event.step, resumed_from_step=event.step)
            case Step():
                return replace(
                    self,
                    step=event.step,
                    total_steps=event.total_steps,
                    epoch=event.epoch,
                    loss=event.loss,
                    tokens_per_second=event.tokens_per_second,
                    eta_seconds=event.eta_seconds,
                    memory_peak=event.memory_peak or self.memory_peak,
                )
            case Evaluated():
                return replace(self, baseline=event.loss) if event.baseline else replace(self, tuned=event.loss)
            case CheckpointSaved():
                return replace(self, checkpoint=event)
            case Restarted():
                return replace(self, restarts=event.restart)
            case MemoryUse():
                return replace(self, memory=event)
            case _:
                return self

    def ended(self, outcome: RunResult | Failure) -> RunState:
        """What is known at the end: also of a run that an earlier attempt has finished."""
        if isinstance(outcome, Failure):
            return replace(self._in(Stage.FAILED), failure=outcome)
        base, tuned = outcome.evaluation.baseline, outcome.evaluation.tuned
        return replace(
            self._in(Stage.SUCCEEDED),
            step=outcome.steps,
            total_steps=outcome.steps,
            tokens_per_second=outcome.tokens_per_second,
            useful_token_ratio=outcome.useful_token_ratio,
            baseline=base.loss if base else None,
            tuned=tuned.loss if tuned else None,
            artifacts=tuple(outcome.artifacts),
        )

    def to_status(self, now: float) -> RunStatus:
        """What people read. What is not known, or is no number, is left out."""
        steps = self.step is not None and self.total_steps is not None
        eta = _whole(self.eta_seconds)
        seconds = self.usage.to_json(now)
        return RunStatus(
            attempt=self.attempt,
            stage=RunStage(self.stage.value),
            step=self.step,
            total_steps=self.total_steps,
            progress=f"{self.step}/{self.total_steps}" if steps else None,
            epoch=_rounded(self.epoch),
            loss=_rounded(self.loss),
            eval_loss=_rounded(self.tuned),
            tokens_per_second=_whole(self.tokens_per_second),
            useful_token_ratio=_rounded(self.useful_token_ratio),
            eta_seconds=eta,
            eta=None if eta is None else wording.brief(eta),
            resumed_from_step=self.resumed_from_step,
            checkpoint=_checkpoint(self.checkpoint),
            evaluation=_evaluation(_rounded(self.baseline), _rounded(self.tuned)),
            artifacts=[ArtifactStatus(uri=it.uri, format=it.format, sha256=it.sha256) for it in self.artifacts] or None,
            restarts=self.restarts or None,
            memory=_memory(self.memory, self.memory_peak),
            seconds=SecondsStatus.model_validate(seconds) if seconds else None,
            failure=_failure(self.failure),
            updated_at=timestamp(now),
        )

    def _in(self, stage: Stage) -> RunState:
        """Only while it trains it is known when it will be done."""
        return replace(self, stage=stage, eta_seconds=self.eta_seconds if stage is self.stage else None)


def _checkpoint(saved: CheckpointSaved | None) -> CheckpointStatus | None:
    return CheckpointStatus(uri=saved.uri, step=saved.step, time=timestamp(saved.time)) if saved else None


def _evaluation(baseline: float | None, tuned: float | None) -> EvaluationStatus | None:
    return None if baseline is None and tuned is None else EvaluationStatus(baseline=baseline, tuned=tuned)


def _memory(settings: MemoryUse | None, peak: int | None) -> RunMemoryStatus | None:
    if settings is None:
        return None
    return RunMemoryStatus(
        rung=settings.rung,
        micro_batch_size=settings.micro_batch_size,
        gradient_checkpointing=settings.gradient_checkpointing,
        stage=settings.stage,
        offload=str(settings.offload),
        peak_bytes=peak,
    )


def _failure(failure: Failure | None) -> FailureStatus | None:
    if failure is None:
        return None
    remedy = "" if failure.remedy == AGAIN else wording.shortened(failure.remedy, MESSAGE_MAX // 2)
    message = wording.shortened(failure.message, MESSAGE_MAX - len(remedy) - _COUNTED)
    text = wording.printable(f"{message} {remedy}".strip(), "utf-8")[:MESSAGE_MAX]
    return FailureStatus(class_=failure.cls, reason=failure.reason, message=text, rank=failure.rank)


def _rounded(number: float | None) -> float | None:
    return round(number, 4) if number is not None and math.isfinite(number) else None


def _whole(number: float | None) -> int | None:
    return round(number) if number is not None and math.isfinite(number) else None
