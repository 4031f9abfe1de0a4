"""The books of a job: the attempts that have ended, what they have used, and the one that has not.

In: the world. Out: `Books`, as the status has them, or with an attempt begun, watched or closed. An attempt is closed once, in
the same status that tells its end. One whose pods are taken away while its driver saves a checkpoint (suspended, or by a
queue) stays open until they are gone. What an attempt that was lost has saved since its last word, the next one tells: it says
from which checkpoint it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_operator.decide.plan import Plan
from finetune_operator.decide.usage import Times, added, found_again, spent
from finetune_operator.observe.views import PodView, RayJobView, seconds, timestamp
from finetune_operator.observe.world import World
from finetune_training.contract.failure import FailureClass

Json = Mapping[str, Any]

KEPT: Final = 10
"""Attempts in `status.attempts`: the object must stay small."""
MESSAGE_MAX: Final = 256


@dataclass(frozen=True)
class Books:
    """As in the status: `attempts`, `usage` and `current`."""

    attempts: tuple[Json, ...] = ()
    usage: Json | None = None
    current: Json | None = None


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, and when. `cls` is empty if it did not fail."""

    cls: str
    reason: str
    message: str
    time: float
    rank: int | None = None


def stored(world: World) -> Books:
    """As the status has them."""
    status = world.status
    return Books(status.attempts, status.body.get("usage"), status.body.get("current") if status.open else None)


def books(world: World) -> Books:
    """As of now, with the last attempt open unless its end is known."""
    status, rayjob, kept = world.status, world.rayjob, stored(world)
    if rayjob and world.attempt > status.attempt:  # begun by an operator that ended before it could say so
        kept = after_the_last(world, kept, rayjob.created)
        return replace(kept, current=_begun(world, rayjob.created, kept))
    if status.open and not kept.current:
        kept = replace(kept, current=_begun(world, rayjob.created if rayjob else status.start or world.now, kept))
    return _settled(kept, status.run)


def _settled(before: Books, run: Json) -> Books:
    """With what the attempts before this one have really lost, when its driver has said where it began. Its ranks may begin once
    more, from a checkpoint of its own: that says nothing of the others."""
    begins = run.get("resumedFromStep", 0 if run.get("stage") == "Training" else None)
    numbers = [number for number, each in enumerate(before.attempts) if each.get("step") is not None]
    if begins is None or run.get("restarts") or not numbers:
        return before
    if before.attempts[numbers[-1]]["attempt"] >= run["attempt"]:
        return before
    last = before.attempts[numbers[-1]]
    known, lost = last.get("lostSteps", 0), max(0, last["step"] - begins)
    if (known, last.get("checkpointStep", 0)) == (lost, begins):
        return before
    entry = {**last, "checkpointStep": begins, "lostSteps": lost}
    attempts = (*before.attempts[: numbers[-1]], entry, *before.attempts[numbers[-1] + 1 :])
    seconds = (known - lost) * float(last.get("secondsPerStep", 0))
    return replace(before, attempts=attempts, usage=found_again(before.usage, seconds) if before.usage else None)


def after_the_last(world: World, before: Books, end: float) -> Books:
    """The one that the status speaks of is over, if it was not: its pods were taken away, and are gone."""
    if not world.status.open:
        return before
    if world.status.holds("Suspended") or world.job.suspend:
        ending = Ending("", "Suspended", "spec.suspend was set.", end)
    else:
        ending = Ending(FailureClass.PREEMPTED, "Preempted", "A queue took back its pods.", end)
    return _with_an_end(world, before, world.status.attempt, ending)


def logs_of(planned: Plan, attempt: int) -> str:
    """The folder of an attempt's logs."""
    store = planned.run["checkpoint"]["uri"].rstrip("/")
    return f"{store}/{planned.namespace}/{planned.name}/{planned.uid}/attempts/{attempt}"


def begun(world: World, before: Books, attempt: int, logs: str) -> Books:
    """The attempt is made, or taken over."""
    taken_over = before.current if attempt == world.attempt else None
    return replace(before, current={**(taken_over or _begun(world, world.now, before)), "logs": logs})


def watched(world: World, rayjob: RayJobView, before: Books, *, runs: bool) -> Books:
    """With the times at which the attempt got what it needs. What a queue has taken away it has not."""
    current = dict(before.current or _begun(world, rayjob.created, before))
    if rayjob.suspend:
        for name in ("waitingSince", "scheduledTime", "runningTime", "gpuSeconds"):
            current.pop(name, None)
        return replace(before, current=current)
    current.setdefault("waitingSince", timestamp(world.now))
    pods = [pod for pod in world.pods_of(rayjob.attempt) if not pod.deleting]
    if "scheduledTime" not in current and (runs or (len(pods) > world.workers and all(pod.scheduled for pod in pods))):
        moment = _latest((pod.scheduled_at for pod in pods), world.now)
        current["scheduledTime"] = timestamp(moment)
        current["gpuSeconds"] = round(_held(world, pods, moment))
    if runs and "runningTime" not in current:
        current["runningTime"] = timestamp(_latest((pod.started for pod in pods), world.now))
    return replace(before, current=current)


def closed(world: World, before: Books, ending: Ending) -> Books:
    """The last attempt has ended so. If none is open, nothing has."""
    return _with_an_end(world, before, world.attempt, ending) if before.current else before


def _begun(world: World, moment: float, before: Books) -> Json:
    """An attempt of that moment. The pause before it is its own, but for one in which the job was suspended."""
    ended = seconds(before.attempts[-1]["endTime"]) if before.attempts else None
    since = world.status.start if world.status.holds("Suspended") or ended is None else ended
    pause = 0 if since is None else max(0, int(moment - since))
    fields = {"startTime": timestamp(moment), "pauseSeconds": pause, "waitingSince": timestamp(moment)}
    return {name: value for name, value in fields.items() if value}


def _with_an_end(world: World, before: Books, attempt: int, ending: Ending) -> Books:
    current = before.current or _begun(world, ending.time, before)
    run = world.status.run if attempt == world.status.attempt else {}
    began, last = seconds(current["startTime"]) or ending.time, before.attempts[-1] if before.attempts else {}
    running = seconds(current.get("runningTime"))
    if running is None and attempt == world.attempt and world.all_run:
        running = _latest((pod.started for pod in world.pods_of(attempt)), ending.time)
    since = began - int(current.get("pauseSeconds", 0))
    times = Times(since, max(ending.time, began), running, seconds(run.get("updatedAt")))
    by_kind = spent(times, run.get("seconds"), succeeded=ending.reason == "Succeeded")
    usage = added(
        before.usage,
        by_kind,
        total=times.end - times.since,
        gpu_seconds=_gpu_seconds(world, attempt, current, times.end),
    )
    entry = _entry(attempt, ending, current, run, last, times.end)
    return Books((*before.attempts, entry)[-KEPT:], usage, None)


def _entry(attempt: int, ending: Ending, current: Json, run: Json, last: Json, end: float) -> Json:
    """As in `status.attempts`."""
    step, resumed = run.get("step"), run.get("resumedFromStep")
    own = (run.get("checkpoint") or {}).get("step", resumed)
    checkpoint = last.get("checkpointStep") if own is None else own
    lost = None if step is None or ending.reason == "Succeeded" else max(0, step - (own or 0))
    undone = (run.get("seconds") or {}).get("sinceCheckpoint")
    fields = {
        "attempt": attempt,
        "class": ending.cls,
        "reason": ending.reason,
        "message": ending.message[:MESSAGE_MAX],
        "rank": ending.rank,
        "startTime": current["startTime"],
        "endTime": timestamp(end),
        "resumedFromStep": resumed,
        "step": step,
        "checkpointStep": checkpoint,
        "lostSteps": lost,
        "secondsPerStep": round(undone / lost, 3) if undone and lost else None,
        "restarts": run.get("restarts"),
        "logs": current.get("logs"),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _gpu_seconds(world: World, attempt: int, current: Json, end: float) -> float:
    """From each worker's node to its end. A worker that was replaced counts as if it had been there all the time."""
    scheduled = seconds(current.get("scheduledTime"))
    if scheduled is None:
        return _held(world, world.pods_of(attempt), end)
    return float(current.get("gpuSeconds", 0)) + max(0.0, end - scheduled) * world.workers * world.gpus_per_worker


def _held(world: World, pods: list[PodView], until: float) -> float:
    times = (pod.scheduled_at for pod in pods if not pod.head and pod.scheduled_at is not None)
    return sum(max(0.0, until - each) for each in times) * world.gpus_per_worker


def _latest(times: Any, now: float) -> float:
    """Of those that are known; a clock of a node may be ahead of ours."""
    known = [each for each in times if each is not None]
    return min(now, max(known)) if known else now
