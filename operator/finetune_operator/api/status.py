"""`status` of a FineTuneJob: what the operator and the driver write, as models from which its schema is made.

The operator writes everything but `run`; the driver of the announced attempt writes `run`, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from finetune_training.contract.moment import Time, seconds
from finetune_training.contract.run import (
    FailureStatus,
    MemoryStatus,
    RunStatus,
    StatusModel,
    at_most,
    items_at_most,
    one_of,
)


class Phase(StrEnum):
    """Where a job is, in one word for people, in the order of its life."""

    PENDING = "Pending"
    PROVISIONING = "Provisioning"
    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """What is said of a job to programs, in the order of `kubectl describe`."""

    ACCEPTED = "Accepted"
    RECONCILING = "Reconciling"
    TRAINING = "Training"
    SUSPENDED = "Suspended"
    STALLED = "Stalled"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Condition(StatusModel):
    """One condition, as everywhere in Kubernetes."""

    type: Annotated[str, at_most(63)]
    """Accepted, Reconciling, Training, Suspended, Stalled, Complete or Failed."""
    status: Annotated[str, one_of("True", "False", "Unknown")]
    """Whether it is so."""
    reason: Annotated[str, at_most(128)]
    """One word for programs: docs/conditions.md lists them."""
    message: Annotated[str, at_most(2048)] = ""
    """What is so, why, and what to do."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: int | None = None
    """The generation of the spec that this condition speaks of."""


class LastFailure(FailureStatus):
    """Why the last attempt that failed did."""

    log: Annotated[str, at_most(1024)] | None = None
    """The end of the log of the container that failed, where the driver left no word."""


class CurrentAttempt(StatusModel):
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
    logs: Annotated[str, at_most(2048)] | None = None
    """Folder of its logs."""


class PastAttempt(StatusModel):
    """An attempt that has ended."""

    attempt: int
    """Its number."""
    class_: Annotated[str, at_most(32)] = ""
    """The class of its failure. Empty: it did not fail."""
    reason: Annotated[str, at_most(128)]
    """The reason of its failure; else Succeeded, Suspended or the deadline that was over."""
    message: Annotated[str, at_most(256)] = ""
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
    logs: Annotated[str, at_most(2048)] | None = None
    """Folder of its logs."""


class UsageStatus(StatusModel):
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


class FineTuneJobStatus(StatusModel):
    """What has become of the job."""

    observed_generation: int | None = None
    """The generation of the spec that this status speaks of."""
    phase: Annotated[str, at_most(32)] | None = None
    """For people: Pending, Provisioning, Preparing, Training, Evaluating, Exporting, Suspended, Succeeded or Failed."""
    attempt: int | None = None
    """The number of the last attempt, counted from 1."""
    failed: int | None = None
    """Attempts that count against backoffLimit."""
    out_of_memory: int | None = None
    """Attempts that ended because a worker had no memory left: each next one asks for less (FINETUNE_OUT_OF_MEMORY)."""
    next_attempt_time: Time | None = None
    """When the next attempt may start, after one that failed."""
    ray_job_name: Annotated[str, at_most(63)] | None = None
    """The RayJob of the last attempt."""
    start_time: Time | None = None
    """When the job started, or was last resumed: activeDeadlineSeconds counts from here."""
    completion_time: Time | None = None
    """When the job was Complete or Failed."""
    conditions: Annotated[list[Condition], items_at_most(8)] | None = None
    """What is so, and why: docs/conditions.md."""
    failure: LastFailure | None = None
    current: CurrentAttempt | None = None
    attempts: Annotated[list[PastAttempt], items_at_most(10)] | None = None
    """The last ten attempts that have ended, the newest last."""
    usage: UsageStatus | None = None
    memory: MemoryStatus | None = None
    """What `run.memory` was when it was last announced."""
    run: RunStatus | None = None

    @property
    def start(self) -> float | None:
        return seconds(self.start_time)

    @property
    def completion(self) -> float | None:
        return seconds(self.completion_time)

    @property
    def next_attempt(self) -> float | None:
        """When the attempt after a failed one may start. None: the last attempt did not fail, or its successor runs."""
        return seconds(self.next_attempt_time)

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of that type."""
        return next((each for each in self.conditions or () if each.type == kind), None)

    def holds(self, kind: ConditionType) -> bool:
        """Whether the condition is True."""
        found = self.condition(kind)
        return found is not None and found.status == "True"

    @property
    def ended(self) -> bool:
        """Complete or Failed: nothing runs any more, ever."""
        return self.holds(ConditionType.COMPLETE) or self.holds(ConditionType.FAILED)
