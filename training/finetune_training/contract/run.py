"""`status.run` of a FineTuneJob: what the driver writes, and the operator and people read.

In: plain values. Out: frozen models; the driver writes through them, and the operator makes the CRD's schema from them. The
docstring under a field is its documentation everywhere. What the schema bounds (`at_most`, `one_of`) the API server checks, and
nothing here: a reader takes what a newer or an older writer has written, and fields that it does not know.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_training.contract.moment import Time
from finetune_training.contract.record import Record

MESSAGE_MAX: Final = 1024
"""Characters of the message of a failure."""


def at_most(longest: int) -> Any:
    """A string of so many characters."""
    return Field(json_schema_extra={"maxLength": longest})


def items_at_most(longest: int) -> Any:
    """A list of so many items."""
    return Field(json_schema_extra={"maxItems": longest})


def one_of(*choices: str) -> Any:
    """A string that is one of these, as far as is known."""
    return Field(json_schema_extra={"enum": [str(each) for each in choices]})


def _name(field: str) -> str:
    """In the API: `class_` is `class`."""
    return to_camel(field).rstrip("_")


class StatusModel(Record):
    """A part of `status`."""

    model_config = ConfigDict(extra="allow", alias_generator=_name)

    def to_json(self) -> dict[str, Any]:
        """As in the API: what is not known is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class RunStage(StrEnum):
    """What an attempt does, as its driver says."""

    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class FailureStatus(StatusModel):
    """Why an attempt ended."""

    class_: Annotated[str, at_most(32)]
    """Who has to act: User, Data, OutOfMemory, Infrastructure, Preempted, Hang, Interrupted, Fenced or Unknown
    (docs/failures.md)."""
    reason: Annotated[str, at_most(128)]
    """One word for programs."""
    message: Annotated[str, at_most(MESSAGE_MAX)] = ""
    """What went wrong, where, and what to do."""
    pod: Annotated[str, at_most(253)] | None = None
    """The pod that failed."""
    node: Annotated[str, at_most(253)] | None = None
    """The node that it was on."""
    rank: int | None = None
    """The rank that failed first."""


class CheckpointStatus(StatusModel):
    """The newest checkpoint that is complete."""

    uri: Annotated[str, at_most(2048)]
    """Its folder."""
    step: int
    """The optimizer step after which it was taken."""
    time: Time
    """When it was complete."""


class ArtifactStatus(StatusModel):
    """A model that came out."""

    uri: Annotated[str, at_most(2048)]
    """Its folder."""
    format: Annotated[str, at_most(32)]
    """Adapter or Merged."""
    sha256: Annotated[str, at_most(64)]
    """Digest over the digests of its files."""


class EvaluationStatus(StatusModel):
    """Loss on the held-out rows."""

    baseline: float | None = None
    """Of the base model."""
    tuned: float | None = None
    """Of the tuned model, when it was last evaluated."""


class MemoryStatus(StatusModel):
    """What the run does to fit into memory."""

    rung: int
    """Times that it has taken less memory, since the spec: 0 is as the spec has it."""
    micro_batch_size: int
    """Samples in one forward pass of one GPU."""
    gradient_checkpointing: bool
    """Whether activations are computed again."""
    offload: Annotated[str, at_most(32)]
    """None, Optimizer or OptimizerAndParameters."""
    stage: int
    """DeepSpeed's ZeRO stage."""


class RunMemoryStatus(MemoryStatus):
    """What the run does to fit into memory, and how much it has used."""

    peak_bytes: int | None = None
    """The most that a rank has had."""


class SecondsStatus(StatusModel):
    """Where the attempt's time has gone, in seconds since its driver's start. Each second is in one of them but for
    `sinceCheckpoint`."""

    preparing: float | None = None
    """Preparing the data."""
    starting: float | None = None
    """Starting the ranks and loading the model."""
    training: float | None = None
    """Steps that count: without those that were lost."""
    evaluating: float | None = None
    """Loss on the held-out rows."""
    exporting: float | None = None
    """Answers, artifacts and the report."""
    checkpointing: float | None = None
    """Training that waited for checkpoints."""
    lost: float | None = None
    """Steps that had to be done again, and starting the ranks again."""
    since_checkpoint: float | None = None
    """The part of `training` since the last complete checkpoint."""


class RunStatus(StatusModel):
    """Progress. Written by the driver of the attempt, and by nobody else."""

    attempt: int
    """The attempt that writes this."""
    stage: Annotated[str, one_of(*RunStage)]
    """What the attempt does now."""
    step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps in all."""
    progress: Annotated[str, at_most(32)] | None = None
    """`step/totalSteps`, for people."""
    epoch: float | None = None
    """Passes over the training rows."""
    loss: float | None = None
    """Training loss of the last step: mean over its supervised tokens."""
    eval_loss: float | None = None
    """Loss on the held-out rows, when they were last evaluated."""
    tokens_per_second: float | None = None
    """Tokens of all ranks, padding not counted."""
    useful_token_ratio: float | None = None
    """Share of the packed positions that are tokens, not padding."""
    eta_seconds: int | None = None
    """Seconds until the last step, at the present speed."""
    eta: Annotated[str, at_most(32)] | None = None
    """`etaSeconds`, for people."""
    resumed_from_step: int | None = None
    """The checkpoint that this attempt started from."""
    restarts: int | None = None
    """Times that the ranks were started again within this attempt."""
    memory: RunMemoryStatus | None = None
    seconds: SecondsStatus | None = None
    checkpoint: CheckpointStatus | None = None
    evaluation: EvaluationStatus | None = None
    artifacts: Annotated[list[ArtifactStatus], items_at_most(16)] | None = None
    """What came out."""
    failure: FailureStatus | None = None
    """Why the attempt failed, as the driver saw it."""
    updated_at: Time
    """When this was written."""
