"""What happened over a whole run, all attempts told as one story.

In: the lines of `metrics.jsonl`, attempt after attempt. Out: a `History`: each step once, as it counts in the end. A
resumed run repeats the steps after its checkpoint, so a step that goes back takes everything after it away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_training.events.progress import (
    CheckpointSaved,
    Evaluated,
    Event,
    Inspected,
    Restarted,
    Resumed,
    Stage,
    StageStarted,
    Step,
    Warned,
)
from finetune_training.events.specimen import Specimen

_KINDS = (StageStarted, Inspected, Step, Evaluated, CheckpointSaved, Restarted, Resumed, Warned)
_EVENTS = {kind.__name__: kind for kind in _KINDS}


@dataclass(frozen=True)
class History:
    """Steps and evaluations in order. `baseline` is the base model's evaluation. `ended`: time of the last event.
    `inspected`: the newest look at the data."""

    steps: list[Step]
    baseline: Evaluated | None
    evaluations: list[Evaluated]
    checkpoints: list[CheckpointSaved]
    warnings: list[str]
    ended: float | None
    inspected: Inspected | None = None

    @property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.steps)


def read_history(records: Iterable[dict[str, Any]]) -> History:
    """The history in `records`. Events of other kinds are passed over; the same warning is kept once."""
    steps: list[Step] = []
    evaluations: dict[int, Evaluated] = {}
    checkpoints: dict[str, CheckpointSaved] = {}
    warnings: dict[str, None] = {}
    baseline, ended, inspected = None, None, None
    for record in records:
        match event := event_of(record):
            case Step():
                if steps and event.step <= steps[-1].step:
                    _go_back(steps, evaluations, event.step)
                steps.append(event)
            case Evaluated():
                if event.baseline:
                    baseline = event
                else:
                    evaluations[event.step] = event
            case Inspected():
                inspected = event
            case CheckpointSaved():
                checkpoints[event.uri] = event
            case Resumed():
                _go_back(steps, evaluations, event.step + 1)
            case Restarted():
                warnings[f"The ranks were started again: {event.why}"] = None
            case Warned():
                warnings[event.message] = None
        ended = record.get("time", ended)
    return History(
        steps=steps,
        baseline=baseline,
        evaluations=sorted(evaluations.values(), key=lambda evaluated: evaluated.step),
        checkpoints=sorted(checkpoints.values(), key=lambda saved: (saved.step, saved.time)),
        warnings=list(warnings),
        ended=ended,
        inspected=inspected,
    )


def event_of(record: dict[str, Any]) -> Event | None:
    """The event that a line of `metrics.jsonl` tells; None for one of another kind, or of another version."""
    kind: Any = _EVENTS.get(record.get("event", ""))
    if kind is None:
        return None
    known = {field.name: record[name] for field in fields(kind) if (name := to_camel(field.name)) in record}
    if known.get("loss", 0.0) is None:  # NaN, in JSON writers that know none
        known["loss"] = math.nan
    try:
        if kind is StageStarted:
            known["stage"] = Stage(known["stage"])
        if kind is Inspected:
            known["sources"] = tuple(known["sources"])
            known["rows"] = tuple(map(Specimen.from_record, known["rows"]))
        event: Event = kind(**known)
    except (TypeError, KeyError, ValueError):  # fields are missing
        return None
    return event


def _go_back(steps: list[Step], evaluations: dict[int, Evaluated], step: int) -> None:
    """Forget `step` and what came after it."""
    while steps and steps[-1].step >= step:
        steps.pop()
    for later in [other for other in evaluations if other >= step]:
        del evaluations[later]
