"""The books of a job: the attempts that have ended, what they have used, and the one that has not.

In: the world. Out: `Books`, as the status has them, or with an attempt begun, watched or closed. An attempt is closed once, in
the same status that tells its end. One whose pods are taken away while its driver saves a checkpoint (suspended, or by a
queue) stays open until they are gone. What an attempt that was lost has saved since its last word, the next one tells: it says
from which checkpoint it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_operator.api.status import ConditionType, CurrentAttempt, PastAttempt, UsageStatus
from finetune_operator.decide.plan import Plan
from finetune_operator.decide.usage import Times, added, found_again, spent
from finetune_operator.observe.views import PodView, RayJobView
from finetune_operator.observe.world import World
from finetune_training.contract.failure import FailureClass
from finetune_training.contract.moment import seconds, timestamp
from finetune_training.contract.run import RunStage, RunStatus

KEPT: Final = 10
"""Attempts in `status.attempts`: the object must stay small."""
MESSAGE_MAX: Final = 256
SUCCEEDED: Final = "Succeeded"
"""The reason of an attempt's end that is none of a failure."""


@dataclass(frozen=True)
class Books:
    """As in the status: `attempts`, `usage` and `current`."""

    attempts: tuple[PastAttempt, ...] = ()
    usage: UsageStatus | None = None
    current: CurrentAttempt | None = None


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, and when. `cls` is empty if it did not fail."""

    cls: str
    reason: str
    message: str
    time: float
    rank: int | None = None

    @property
    def succeeded(self) -> bool:
        return self.reason == SUCCEEDED


def stored(world: World) -> Books:
    """As the status has them."""
    status = world.status
    return Books(tuple(status.attempts or ()), status.usage, status.current if world.open else None)


def books(world: World) -> Books:
    """As of now, with the last attempt open unless its end is known."""
    status, rayjob, kept = world.status, world.rayjob, stored(world)
    if rayjob and world.attempt > world.told:  # begun by an operator that ended before it could say so
        kept = after_the_last(world, kept, rayjob.created)
        return replace(kept, current=_begun(world, rayjob.created, kept))
    if world.open and not kept.current:
        kept = replace(kept, current=_begun(world, rayjob.created if rayjob else status.start or world.now, kept))
    return _settled(kept, world.run) if world.run else kept


def _settled(before: Books, run: RunStatus) -> Books:
    """With what the attempts before this one have really lost, when its driver has said where it began. Its ranks may begin once
    more, from a checkpoint of its own: that says nothing of the others."""
    begins = 0 if run.resumed_from_step is None and run.stage == RunStage.TRAINING else run.resumed_from_step
    numbers = [number for number, each in enumerate(before.attempts) if each.step is not None]
    if begins is None or run.restarts or not numbers:
        return before
    last = before.attempts[numbers[-1]]
    if last.attempt >= run.attempt:
        return before
    known, lost = last.lost_steps or 0, max(0, (last.step or 0) - begins)
    if (known, last.checkpoint_step or 0) == (lost, begins):
        return before
    entry = last.model_copy(update={"checkpoint_step": begins, "lost_steps": lost})
    attempts = (*before.attempts[: numbers[-1]], entry, *before.attempts[numbers[-1] + 1 :])
    seconds = (known - lost) * (last.seconds_per_step or 0.0)
    return replace(before, attempts=attempts, usage=found_again(before.usage, seconds) if before.usage else None)


def after_the_last(world: World, before: Books, end: float) -> Books:
    """The one that the status speaks of is over, if it was not: its pods were taken away, and are gone."""
    if not world.open:
        return before
    if world.status.holds(ConditionType.SUSPENDED) or world.spec.suspend:
        ending = Ending("", "Suspended", "spec.suspend was set.", end)
    else:
        ending = Ending(FailureClass.PREEMPTED, "Preempted", "A queue took back its pods.", end)
    return _with_an_end(world, before, world.told, ending)


def logs_of(planned: Plan, attempt: int) -> str:
    """The folder of an attempt's logs."""
    store = planned.run["checkpoint"]["uri"].rstrip("/")
    return f"{store}/{planned.namespace}/{planned.name}/{planned.uid}/attempts/{attempt}"


def begun(world: World, before: Books, attempt: int, logs: str) -> Books:
    """The attempt is made, or taken over."""
    taken_over = before.current if attempt == world.attempt else None
    current = taken_over or _begun(world, world.now, before)
    return replace(before, current=current.model_copy(update={"logs": logs}))


def watched(world: World, rayjob: RayJobView, before: Books, *, runs: bool) -> Books:
    """With the times at which the attempt got what it needs. What a queue has taken away it has not."""
    current = before.current or _begun(world, rayjob.created, before)
    changes: dict[str, Any] = {}
    if rayjob.suspend:
        times = ("waiting_since", "scheduled_time", "running_time", "gpu_seconds")
        changes = {name: None for name in times if getattr(current, name) is not None}
    else:
        if current.waiting_since is None:
            changes["waiting_since"] = timestamp(world.now)
        pods = [pod for pod in world.pods_of(rayjob.attempt) if not pod.deleting]
        whole = len(pods) > world.workers and all(pod.scheduled for pod in pods)
        if current.scheduled_time is None and (runs or whole):
            moment = _latest((pod.scheduled_at for pod in pods), world.now)
            changes["scheduled_time"] = timestamp(moment)
            changes["gpu_seconds"] = round(_held(world, pods, moment))
        if runs and current.running_time is None:
            changes["running_time"] = timestamp(_latest((pod.started for pod in pods), world.now))
    return replace(before, current=current.model_copy(update=changes) if changes else current)


def closed(world: World, before: Books, ending: Ending) -> Books:
    """The last attempt has ended so. If none is open, nothing has."""
    return _with_an_end(world, before, world.attempt, ending) if before.current else before


def _begun(world: World, moment: float, before: Books) -> CurrentAttempt:
    """An attempt of that moment. The pause before it is its own, but for one in which the job was suspended."""
    status, ended = world.status, seconds(before.attempts[-1].end_time) if before.attempts else None
    since = status.start if status.holds(ConditionType.SUSPENDED) or ended is None else ended
    pause = 0 if since is None else max(0, int(moment - since))
    time = timestamp(moment)
    return CurrentAttempt(start_time=time, pause_seconds=pause or None, waiting_since=time)


def _with_an_end(world: World, before: Books, attempt: int, ending: Ending) -> Books:
    current = before.current or _begun(world, ending.time, before)
    run = world.run if attempt == world.told else None
    began, running = seconds(current.start_time) or ending.time, seconds(current.running_time)
    if running is None and attempt == world.attempt and world.all_run:
        running = _latest((pod.started for pod in world.pods_of(attempt)), ending.time)
    since = began - (current.pause_seconds or 0)
    times = Times(since, max(ending.time, began), running, seconds(run.updated_at) if run else None)
    usage = added(
        before.usage,
        spent(times, run.seconds if run else None, succeeded=ending.succeeded),
        total=times.end - times.since,
        gpu_seconds=_gpu_seconds(world, attempt, current, times.end),
    )
    last = before.attempts[-1].checkpoint_step if before.attempts else None
    entry = _entry(attempt, ending, current, run, last, times.end)
    return Books((*before.attempts, entry)[-KEPT:], usage, None)


def _entry(
    attempt: int, ending: Ending, current: CurrentAttempt, run: RunStatus | None, last: int | None, end: float
) -> PastAttempt:
    """As in `status.attempts`. `last`: the checkpoint that there was before it."""
    step = resumed = own = undone = restarts = None
    if run:
        step, resumed, restarts = run.step, run.resumed_from_step, run.restarts
        own = run.checkpoint.step if run.checkpoint else resumed
        undone = run.seconds.since_checkpoint if run.seconds else None
    lost = None if step is None or ending.succeeded else max(0, step - (own or 0))
    return PastAttempt(
        attempt=attempt,
        class_=ending.cls,
        reason=ending.reason,
        message=ending.message[:MESSAGE_MAX],
        rank=ending.rank,
        start_time=current.start_time,
        end_time=timestamp(end),
        resumed_from_step=resumed,
        step=step,
        checkpoint_step=last if own is None else own,
        lost_steps=lost,
        seconds_per_step=round(undone / lost, 3) if undone and lost else None,
        restarts=restarts,
        logs=current.logs,
    )


def _gpu_seconds(world: World, attempt: int, current: CurrentAttempt, end: float) -> float:
    """From each worker's node to its end. A worker that was replaced counts as if it had been there all the time."""
    scheduled = seconds(current.scheduled_time)
    if scheduled is None:
        return _held(world, world.pods_of(attempt), end)
    return (current.gpu_seconds or 0) + max(0.0, end - scheduled) * world.workers * world.gpus_per_worker


def _held(world: World, pods: list[PodView], until: float) -> float:
    times = (pod.scheduled_at for pod in pods if not pod.head and pod.scheduled_at is not None)
    return sum(max(0.0, until - each) for each in times) * world.gpus_per_worker


def _latest(times: Iterable[float | None], now: float) -> float:
    """Of those that are known; a clock of a node may be ahead of ours."""
    known = [each for each in times if each is not None]
    return min(now, max(known)) if known else now
