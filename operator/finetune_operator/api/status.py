"""`status` of a FineTuneJob: what the operator and the driver write, as models from which its schema is made.

The operator writes everything but `run`; the driver of the announced attempt writes `run`, and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Condition(_Model):
    """One condition, as everywhere in Kubernetes."""

    type: Annotated[str, Field(max_length=63)]
    """Accepted, Reconciling, Training, Suspended, Stalled, Complete or Failed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(max_length=128)]
    """One word for programs: docs/conditions.md lists them."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """What is so, why, and what to do."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: int | None = None
    """The generation of the spec that this condition speaks of."""


class Failure(_Model):
    """Why an attempt ended."""

    class_: Annotated[str, Field(alias="class", max_length=32)]
    """Who has to act: User, Data, OutOfMemory, Infrastructure, Preempted, Hang, Interrupted, Fenced or Unknown
    (docs/failures.md)."""
    reason: Annotated[str, Field(max_length=128)]
    """One word for programs."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What went wrong, where, and what to do."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """The pod that failed."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """The node that it was on."""
    rank: int | None = None
    """The rank that failed first."""


class LastFailure(Failure):
    """Why the last attempt that failed did."""

    log: Annotated[str, Field(max_length=1024)] | None = None
    """The end of the log of the container that failed, where the driver left no word."""


class CheckpointStatus(_Model):
    """The newest checkpoint that is complete."""

    uri: Annotated[str, Field(max_length=2048)]
    """Its folder."""
    step: int
    """The optimizer step after which it was taken."""
    time: Time
    """When it was complete."""


class ArtifactStatus(_Model):
    """A model that came out."""

    uri: Annotated[str, Field(max_length=2048)]
    """Its folder."""
    format: Annotated[str, Field(max_length=32)]
    """Adapter or Merged."""
    sha256: Annotated[str, Field(max_length=64)]
    """Digest over the digests of its files."""


class EvaluationStatus(_Model):
    """Loss on the held-out rows."""

    baseline: float | None = None
    """Of the base model."""
    tuned: float | None = None
    """Of the tuned model, when it was last evaluated."""


class Memory(_Model):
    """What the run does to fit into memory."""

    rung: int
    """Times that it has taken less memory, since the spec: 0 is as the spec has it."""
    micro_batch_size: int
    """Samples in one forward pass of one GPU."""
    gradient_checkpointing: bool
    """Whether activations are computed again."""
    offload: Annotated[str, Field(max_length=32)]
    """None, Optimizer or OptimizerAndParameters."""
    stage: int
    """DeepSpeed's ZeRO stage."""


class RunMemory(Memory):
    """What the run does to fit into memory, and how much it has used."""

    peak_bytes: int | None = None
    """The most that a rank has had."""


class RunSeconds(_Model):
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


class Run(_Model):
    """Progress. Written by the driver of the attempt, and by nobody else."""

    attempt: int
    """The attempt that writes this."""
    stage: Literal["Preparing", "Training", "Evaluating", "Exporting", "Succeeded", "Failed"]
    """What the attempt does now."""
    step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps in all."""
    progress: Annotated[str, Field(max_length=32)] | None = None
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
    eta: Annotated[str, Field(max_length=32)] | None = None
    """`etaSeconds`, for people."""
    resumed_from_step: int | None = None
    """The checkpoint that this attempt started from."""
    restarts: int | None = None
    """Times that the ranks were started again within this attempt."""
    memory: RunMemory | None = None
    seconds: RunSeconds | None = None
    checkpoint: CheckpointStatus | None = None
    evaluation: EvaluationStatus | None = None
    artifacts: Annotated[list[ArtifactStatus], Field(max_length=16)] | None = None
    """What came out."""
    failure: Failure | None = None
    """Why the attempt failed, as the driver saw it."""
    updated_at: Time
    """When this was written."""


class CurrentAttempt(_Model):
    """The attempt that has not ended."""

    start_time: Time
    """When its RayJob was made."""
    pause_seconds: int | None = None
    """Seconds between the end of the attempt before it, or the job's start, and its own."""
    waiting_since: Time | None = None
    """Since when it waits for its pods: pendingDeadlineSeconds counts from here. Missing while a queue holds it."""
    scheduled_time: Time | None = None
    """When all its pods had a node."""
    running_time: Time | None = None
    """When all its pods ran."""
    gpu_seconds: int | None = None
    """GPU-seconds held by those of its pods that had a node before the last one did."""
    logs: Annotated[str, Field(max_length=2048)] | None = None
    """Folder of its logs."""


class PastAttempt(_Model):
    """An attempt that has ended."""

    attempt: int
    """Its number."""
    class_: Annotated[str, Field(alias="class", max_length=32)] = ""
    """The class of its failure. Empty: it did not fail."""
    reason: Annotated[str, Field(max_length=128)]
    """The reason of its failure; else Succeeded, Suspended or the deadline that was over."""
    message: Annotated[str, Field(max_length=256)] = ""
    """What went wrong, in short."""
    rank: int | None = None
    """The rank that failed first."""
    start_time: Time
    """When its RayJob was made."""
    end_time: Time
    """When it ended."""
    resumed_from_step: int | None = None
    """The checkpoint that it started from."""
    step: int | None = None
    """The step that it reached."""
    checkpoint_step: int | None = None
    """The checkpoint that the next attempt went on from; until that says so, the newest of which this one did."""
    lost_steps: int | None = None
    """Steps since then, which have to be done again."""
    seconds_per_step: float | None = None
    """Seconds that each of them took, as its driver said."""
    restarts: int | None = None
    """Times that its ranks were started again."""
    logs: Annotated[str, Field(max_length=2048)] | None = None
    """Folder of its logs."""


class Usage(_Model):
    """Where the time of all attempts that have ended has gone."""

    waiting_seconds: int
    """For pods, and between attempts."""
    starting_seconds: int
    """From when all pods ran to the driver's first word; then starting the ranks and loading the model."""
    preparing_seconds: int
    """Preparing the data."""
    training_seconds: int
    """Steps that count."""
    evaluating_seconds: int
    """Loss on the held-out rows."""
    exporting_seconds: int
    """Answers, artifacts and the report."""
    checkpoint_seconds: int
    """Training that waited for checkpoints."""
    lost_seconds: int
    """Steps that were done in vain, and what came after them until the attempt had ended."""
    total_seconds: int
    """All seconds since the first start, but for those in which the job was suspended."""
    gpu_seconds: int
    """GPUs times the seconds for which pods had them."""
    goodput: float
    """trainingSeconds / totalSeconds."""


class FineTuneJobStatus(_Model):
    """What has become of the job."""

    observed_generation: int | None = None
    """The generation of the spec that this status speaks of."""
    phase: Annotated[str, Field(max_length=32)] | None = None
    """For people: Pending, Provisioning, Preparing, Training, Evaluating, Exporting, Suspended, Succeeded or Failed."""
    attempt: int | None = None
    """The number of the last attempt, counted from 1."""
    failed: int | None = None
    """Attempts that count against backoffLimit."""
    out_of_memory: int | None = None
    """Attempts that ended because a worker had no memory left: each next one asks for less (FINETUNE_OUT_OF_MEMORY)."""
    next_attempt_time: Time | None = None
    """When the next attempt may start, after one that failed."""
    ray_job_name: Annotated[str, Field(max_length=63)] | None = None
    """The RayJob of the last attempt."""
    start_time: Time | None = None
    """When the job started, or was last resumed: activeDeadlineSeconds counts from here."""
    completion_time: Time | None = None
    """When the job was Complete or Failed."""
    conditions: Annotated[list[Condition], Field(max_length=8)] | None = None
    """What is so, and why: docs/conditions.md."""
    failure: LastFailure | None = None
    current: CurrentAttempt | None = None
    attempts: Annotated[list[PastAttempt], Field(max_length=10)] | None = None
    """The last ten attempts that have ended, the newest last."""
    usage: Usage | None = None
    memory: Memory | None = None
    """What `run.memory` was when it was last announced."""
    run: Run | None = None
