"""What is so of a job → the `status` that says it.

In: the world, and a `Picture` of what is so now. Out: the status without `run` (which is the driver's). Conditions
keep their time while they do not change, so the same picture gives the same status, and the same status is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from finetune_operator.api.status import Condition, ConditionType, FineTuneJobStatus, LastFailure, Phase
from finetune_operator.decide.books import Books, books
from finetune_operator.names import child_name
from finetune_operator.observe.world import World
from finetune_training.contract.failure import FailureClass
from finetune_training.contract.moment import timestamp
from finetune_training.contract.record import Json
from finetune_training.contract.run import MemoryStatus, RunStage

_MESSAGE_MAX = 2048


@dataclass(frozen=True)
class Fact:
    """A condition's status, with its reason and message."""

    holds: bool
    reason: str
    message: str = ""


@dataclass(frozen=True)
class Picture:
    """What is so. Times are seconds since 1970. Conditions that are not in `facts` are taken away."""

    phase: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    attempt: int = 0
    failed: int = 0
    out_of_memory: int = 0
    ray_job_name: str = ""
    start: float | None = None
    completion: float | None = None
    next_attempt: float | None = None
    failure: LastFailure | None = None
    books: Books = field(default_factory=Books)
    memory: MemoryStatus | None = None


_TRAINS: Final = (RunStage.TRAINING, RunStage.EVALUATING, RunStage.EXPORTING, RunStage.SUCCEEDED)
ACCEPTED: Final = Fact(True, "Valid")


def as_before(world: World) -> Picture:
    """What the status says already."""
    status, attempt = world.status, world.attempt
    return Picture(
        phase=status.phase or Phase.PENDING,
        facts={each.type: Fact(each.status == "True", each.reason, each.message) for each in status.conditions or ()},
        attempt=attempt,
        failed=status.failed or 0,
        out_of_memory=status.out_of_memory or 0,
        ray_job_name=child_name(world.job.name, attempt) if attempt else "",
        start=status.start,
        completion=status.completion,
        next_attempt=status.next_attempt,
        failure=status.failure,
        books=books(world),
        memory=status.memory,
    )


def open_facts(world: World, training: Fact, *, suspended: Fact | None = None, hangs: str = "") -> dict[str, Fact]:
    """The conditions of a job that has not ended. `hangs`: an attempt has ended because it hung; that is so until the next
    one trains."""
    status = world.status
    facts: dict[str, Fact] = {
        ConditionType.ACCEPTED: ACCEPTED,
        ConditionType.RECONCILING: Fact(True, "Progressing"),
        ConditionType.TRAINING: training,
    }
    if suspended:
        facts[ConditionType.SUSPENDED] = suspended
    elif status.condition(ConditionType.SUSPENDED):
        facts[ConditionType.SUSPENDED] = Fact(False, "Resumed", "The job was resumed.")
    stalled = status.condition(ConditionType.STALLED)
    if hangs or (stalled and stalled.status == "True" and world.stage not in _TRAINS):
        facts[ConditionType.STALLED] = Fact(True, FailureClass.HANG, hangs or (stalled.message if stalled else ""))
    return facts


def render_status(old: FineTuneJobStatus, picture: Picture, *, generation: int, now: float) -> FineTuneJobStatus:
    """`status` but for `run`."""
    return FineTuneJobStatus(
        observed_generation=generation,
        phase=picture.phase,
        attempt=picture.attempt or None,
        failed=picture.failed or None,
        out_of_memory=picture.out_of_memory or None,
        next_attempt_time=_time(picture.next_attempt),
        ray_job_name=picture.ray_job_name or None,
        start_time=_time(picture.start),
        completion_time=_time(picture.completion),
        conditions=[
            _condition(old.condition(kind), kind, picture.facts[kind], generation, now)
            for kind in ConditionType
            if kind in picture.facts
        ],
        failure=picture.failure,
        current=picture.books.current,
        attempts=list(picture.books.attempts) or None,
        usage=picture.books.usage,
        memory=picture.memory,
    )


def is_written(world: World, status: Json) -> bool:
    """Whether the API server has `status` already, word for word: what a newer operator has written and this one does not know
    would else be lost with the next change."""
    return {name: value for name, value in world.written.items() if name != "run"} == status


def _condition(old: Condition | None, kind: ConditionType, fact: Fact, generation: int, now: float) -> Condition:
    holds = "True" if fact.holds else "False"
    since = old.last_transition_time if old and old.status == holds else ""
    return Condition(
        type=kind,
        status=holds,
        reason=fact.reason,
        message=fact.message[:_MESSAGE_MAX],
        last_transition_time=since or timestamp(now),
        observed_generation=generation,
    )


def _time(moment: float | None) -> str | None:
    return None if moment is None else timestamp(moment)
