"""What is so of a job → the `status` that says it.

In: the world, and a `Picture` of what is so now. Out: the status without `run` (which is the driver's). Conditions
keep their time while they do not change, so the same picture gives the same status, and the same status is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_operator.decide.books import Books, books
from finetune_operator.names import child_name
from finetune_operator.observe.views import timestamp
from finetune_operator.observe.world import Status, World

Json = Mapping[str, Any]
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
    failure: Json | None = None
    books: Books = field(default_factory=Books)
    memory: Json | None = None


ORDER: Final = ("Accepted", "Reconciling", "Training", "Suspended", "Stalled", "Complete", "Failed")
"""Of the conditions, in `kubectl describe`."""


_TRAINS = ("Training", "Evaluating", "Exporting", "Succeeded")
ACCEPTED: Final = Fact(True, "Valid")


def as_before(world: World) -> Picture:
    """What the status says already."""
    status, attempt = world.status, world.attempt
    conditions = status.body.get("conditions") or ()
    return Picture(
        phase=status.phase or "Pending",
        facts={each["type"]: Fact(each["status"] == "True", each["reason"], each["message"]) for each in conditions},
        attempt=attempt,
        failed=status.failed,
        out_of_memory=status.out_of_memory,
        ray_job_name=child_name(world.job.name, attempt) if attempt else "",
        start=status.start,
        completion=status.completion,
        next_attempt=status.next_attempt,
        failure=status.body.get("failure"),
        books=books(world),
        memory=status.body.get("memory"),
    )


def open_facts(world: World, training: Fact, *, suspended: Fact | None = None, hangs: str = "") -> dict[str, Fact]:
    """The conditions of a job that has not ended. `hangs`: an attempt has ended because it hung; that is so until the next
    one trains."""
    facts = {"Accepted": ACCEPTED, "Reconciling": Fact(True, "Progressing"), "Training": training}
    if suspended:
        facts["Suspended"] = suspended
    elif world.status.condition("Suspended"):
        facts["Suspended"] = Fact(False, "Resumed", "The job was resumed.")
    if hangs or (world.status.holds("Stalled") and world.status.run.get("stage") not in _TRAINS):
        facts["Stalled"] = Fact(True, "Hang", hangs or world.status.condition("Stalled")["message"])
    return facts


def render_status(old: Status, picture: Picture, *, generation: int, now: float) -> dict[str, Any]:
    """`status` but for `run`."""
    conditions = [
        _condition(old.condition(kind), kind, picture.facts[kind], generation, now)
        for kind in ORDER
        if kind in picture.facts
    ]
    fields = {
        "observedGeneration": generation,
        "phase": picture.phase,
        "attempt": picture.attempt or None,
        "failed": picture.failed or None,
        "outOfMemory": picture.out_of_memory or None,
        "nextAttemptTime": _time(picture.next_attempt),
        "rayJobName": picture.ray_job_name or None,
        "startTime": _time(picture.start),
        "completionTime": _time(picture.completion),
        "conditions": conditions,
        "failure": picture.failure,
        "current": picture.books.current,
        "attempts": list(picture.books.attempts) or None,
        "usage": picture.books.usage,
        "memory": picture.memory,
    }
    return {name: value for name, value in fields.items() if value is not None}


def is_written(old: Status, status: Json) -> bool:
    """Whether the API server has `status` already."""
    return {name: value for name, value in old.body.items() if name != "run"} == status


def _condition(old: Json, kind: str, fact: Fact, generation: int, now: float) -> dict[str, Any]:
    holds = "True" if fact.holds else "False"
    same = old.get("status") == holds
    return {
        "type": kind,
        "status": holds,
        "reason": fact.reason,
        "message": fact.message[:_MESSAGE_MAX],
        "lastTransitionTime": old["lastTransitionTime"] if same else _time(now),
        "observedGeneration": generation,
    }


def _time(moment: float | None) -> str | None:
    return None if moment is None else timestamp(moment)
