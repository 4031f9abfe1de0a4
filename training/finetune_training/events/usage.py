"""What an attempt, or a whole run, has spent its time on.

In: progress events. Out: seconds of each kind: of an attempt as `status.run.seconds` has them, of a run as its report shows
them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from finetune_training.events.progress import CheckpointSaved, Evaluated, Event, Restarted, Stage, StageStarted, Step

_KINDS = ("preparing", "starting", "training", "evaluating", "exporting", "checkpointing", "lost")
_WALL = {Stage.PREPARING: "preparing", Stage.STARTING: "starting", Stage.EXPORTING: "exporting"}


@dataclass(frozen=True)
class Usage:
    """Seconds. `training`: of steps whose work was not lost; `checkpointing`: for which training waited; `lost`: of steps that
    were done again, or must be. `unsaved`: (step, seconds) of those after the last committed checkpoint."""

    preparing: float = 0.0
    starting: float = 0.0
    training: float = 0.0
    evaluating: float = 0.0
    exporting: float = 0.0
    checkpointing: float = 0.0
    lost: float = 0.0
    unsaved: tuple[tuple[int, float], ...] = ()
    stage: Stage | None = None
    since: float = 0.0

    def after(self, event: Event) -> Usage:
        """What is so once `event` has happened."""
        match event:
            case StageStarted():
                return replace(self.until(event.time), stage=event.stage, since=event.time)
            case Step():
                unsaved = (*self.unsaved, (event.step, event.seconds))
                return replace(self, training=self.training + event.seconds, unsaved=unsaved)
            case Evaluated():
                return replace(self, evaluating=self.evaluating + event.seconds)
            case CheckpointSaved():
                unsaved = tuple(each for each in self.unsaved if each[0] > event.step)
                return replace(self, checkpointing=self.checkpointing + event.blocked_seconds, unsaved=unsaved)
            case Restarted():
                again = self.since_checkpoint
                return replace(self, training=self.training - again, lost=self.lost + again, unsaved=())
            case _:
                return self

    def until(self, now: float) -> Usage:
        """With the stage under way counted up to `now`."""
        kind = _WALL.get(self.stage) if self.stage else None
        if kind is None:
            return self
        return replace(self, **{kind: getattr(self, kind) + max(0.0, now - self.since)}, since=now)

    @property
    def since_checkpoint(self) -> float:
        """The part of `training` that would be lost now."""
        return sum(seconds for _, seconds in self.unsaved)

    def to_json(self, now: float) -> dict[str, float]:
        """`status.run.seconds`: the kinds that there were."""
        counted = self.until(now)
        found = {kind: getattr(counted, kind) for kind in _KINDS} | {"sinceCheckpoint": counted.since_checkpoint}
        return {kind: round(seconds, 1) for kind, seconds in found.items() if seconds >= 0.05}


def spent(events: Iterable[tuple[int, Event]], *, now: float) -> dict[str, float]:
    """Seconds of each kind in all attempts of a run that ends `now`, given (attempt, event) in their order. Their sum is the time
    since the first event. `between`: from the last word of an attempt to the first of the next; `other`: in no kind."""
    seconds = dict.fromkeys((*_KINDS, "between"), 0.0)
    attempt, usage = 0, Usage()
    first, last = now, now

    def end(at: float) -> None:
        for kind in _KINDS:
            seconds[kind] += getattr(usage.until(at), kind)

    for number, event in events:
        if number != attempt:
            if attempt:
                end(last)
                seconds["training"] -= usage.since_checkpoint
                seconds["lost"] += usage.since_checkpoint
                seconds["between"] += max(0.0, event.time - last)
            else:
                first = event.time
            attempt, usage = number, Usage()
        usage, last = usage.after(event), event.time
    end(now)
    return seconds | {"other": max(0.0, now - first - sum(seconds.values()))}
