"""What to do about one job: `decide`.

In: a `World` and the platform. Out: a `Decision`. Level-triggered: it looks at what is so, not at what has happened, so it does
not matter what the operator missed while it was down. Deciding again after the effects are carried out gives no effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from finetune_operator.api.status import ConditionType, Phase
from finetune_operator.decide.books import after_the_last, begun, logs_of, stored, watched
from finetune_operator.decide.decision import Decision, decided, delete, unchanged
from finetune_operator.decide.effects import Effect, ForgetPod, Start
from finetune_operator.decide.endings import after_the_end, attempt_failed, complete, failed, suspended, taken_back
from finetune_operator.decide.outcome import AttemptFailure, Succeeded, outcome
from finetune_operator.decide.pending import TAKEN_UP_WITHIN, pending_left, why_not_whole, why_pending
from finetune_operator.decide.picture import Fact, as_before, open_facts
from finetune_operator.decide.plan import InvalidJob, plan
from finetune_operator.names import HEAD, SUBMITTER, child_name
from finetune_operator.observe.views import RayJobView
from finetune_operator.observe.world import LOST_AFTER, World
from finetune_operator.settings import Platform
from finetune_training.contract.run import RunStage

_LOOK_AGAIN = 5.0
"""Seconds until an attempt whose driver has ended is looked at again: of what KubeRay does not see there is no event."""
_STAGES: Final[Mapping[str, Phase]] = {
    RunStage.TRAINING: Phase.TRAINING,
    RunStage.EVALUATING: Phase.EVALUATING,
    RunStage.EXPORTING: Phase.EXPORTING,
    RunStage.SUCCEEDED: Phase.EXPORTING,
}


def decide(world: World, platform: Platform) -> Decision:
    """The whole life of a job, in the order in which the questions matter."""
    spec, status = world.spec, world.status
    if world.job.deleting:
        return Decision()
    if status.ended:
        return after_the_end(world)
    rayjob, end = world.rayjob, outcome(world, world.rayjob)
    if rayjob and isinstance(end, Succeeded):  # whatever has come to pass since then
        return complete(world, rayjob)
    if spec.suspend:
        return suspended(world)
    if world.seconds_left is not None and world.seconds_left <= 0:
        return failed(
            world, "DeadlineExceeded", f"The job ran for {spec.active_deadline_seconds} s: spec.activeDeadlineSeconds."
        )
    if rayjob and world.told < world.attempt:  # begun by an operator that ended before it could say so
        return _start(world, platform, world.attempt)
    if not world.attempt or status.next_attempt or status.holds(ConditionType.SUSPENDED):
        return _next_attempt(world, platform)
    if rayjob and rayjob.suspend and world.run:
        return taken_back(world)
    if isinstance(end, AttemptFailure):
        return attempt_failed(world, end)
    assert rayjob  # without one the attempt has failed
    return _running(world, rayjob)


# ── an attempt begins ───────────────────────────────────────────────────────────────────────────────────────────────


def _next_attempt(world: World, platform: Platform) -> Decision:
    """When the last one is gone, pods included, and its time has come."""
    leftovers, left = delete(world.rayjobs), world.pods_left
    if leftovers or world.rayjobs or left:
        return unchanged(world, after=leftovers, revisit_after=_LOOK_AGAIN if left else None)
    due = world.status.next_attempt
    if due and due > world.now:
        return unchanged(world, revisit_after=due - world.now)
    return _start(world, platform, world.attempt + 1)


def _start(world: World, platform: Platform, attempt: int) -> Decision:
    try:
        planned = plan(world.job, platform)
    except InvalidJob as error:
        return failed(world, "InvalidSpec", error.message, accepted=Fact(False, "InvalidSpec", error.message))
    before = as_before(world)
    books = before.books if attempt == world.attempt else after_the_last(world, before.books, world.now)
    picture = replace(
        before,
        phase=Phase.PENDING,
        attempt=attempt,
        ray_job_name=child_name(world.job.name, attempt),
        start=before.start or world.now,
        next_attempt=None,
        books=begun(world, books, attempt, logs_of(planned, attempt)),
        facts=open_facts(world, Fact(False, "WaitingForPods", "The pods are being made and given their nodes.")),
    )
    return decided(world, picture, before=(Start(planned, attempt, world.status.out_of_memory or 0),))


# ── an attempt runs ─────────────────────────────────────────────────────────────────────────────────────────────────


def _running(world: World, rayjob: RayJobView) -> Decision:
    stage, run = world.stage, world.run
    leftovers: tuple[Effect, ...] = delete(each for each in world.rayjobs if each.attempt < rayjob.attempt)
    leftovers += tuple(ForgetPod(each.name, each.uid) for each in world.pods_lost)
    runs, left = not rayjob.suspend and (rayjob.deployment_status == "Running" or stage in _STAGES), None
    before = as_before(world)
    books = watched(world, rayjob, before.books, runs=runs)
    if runs:
        last = world.status.phase if stage == RunStage.FAILED else None
        phase: str = _STAGES.get(stage) or last or Phase.PREPARING
        resumed = f" It goes on from step {run.resumed_from_step}." if run and run.resumed_from_step is not None else ""
        lacks = f" A worker is being replaced. {why}" if (why := why_not_whole(world, rayjob)) else ""
        training = Fact(True, phase, f"Attempt {rayjob.attempt} is running.{resumed}{lacks}")
    else:
        waits = why_pending(world, rayjob)
        phase, training = waits.phase, Fact(False, waits.reason, waits.message)
        left = pending_left(world, books.current)
        if left is not None and left <= 0:
            return _waited_too_long(world, waits.message)
    picture = replace(before, phase=phase, books=books, facts=open_facts(world, training))
    again = [each for each in (left, _unseen(world, rayjob)) if each is not None]
    return decided(world, picture, after=leftovers, revisit_after=min(again, default=None))


def _unseen(world: World, rayjob: RayJobView) -> float | None:
    """Seconds until something may have become so of which no event tells."""
    pods = world.pods_of(rayjob.attempt)
    heads = [pod for pod in pods if pod.head]
    if any(ended.container in (SUBMITTER, HEAD) for pod in heads for ended in pod.ended):
        return _LOOK_AGAIN
    if lost := [pod.gone_by + LOST_AFTER - world.now for pod in pods if pod.gone_by is not None]:
        return max(_LOOK_AGAIN, *lost)
    waited = world.now - rayjob.created
    return TAKEN_UP_WITHIN - waited if not rayjob.deployment_status and waited < TAKEN_UP_WITHIN else None


def _waited_too_long(world: World, why: str) -> Decision:
    limit = world.spec.pending_deadline_seconds
    said = f"Attempt {world.attempt or 1} did not get all its pods within {limit} s: spec.pendingDeadlineSeconds. {why}"
    return failed(world, "PendingDeadlineExceeded", said)


def refused(world: World, reason: str, message: str, *, final: bool) -> Decision:
    """The API server did not let the attempt begin: the job waits while it is tried again, or has failed."""
    if final:
        return failed(world, reason, message)
    status, limit = world.status, world.spec.pending_deadline_seconds
    held = status.holds(ConditionType.SUSPENDED)
    since = status.next_attempt or (None if world.told and not held else status.start)
    if limit is not None and since is not None and world.now >= since + limit:
        return _waited_too_long(world, message)
    # Still suspended, to the next look: otherwise the attempt that was taken away would be one that got lost.
    resuming = Fact(True, "Resuming", message) if held else None
    picture = replace(
        as_before(world),
        phase=Phase.PENDING,
        books=stored(world),
        facts=open_facts(world, Fact(False, reason, message), suspended=resuming),
        # Its RayJob may be there: the attempt has begun only when all that it needs is there, too.
        attempt=world.told,
        ray_job_name=status.ray_job_name or "",
        start=status.start or world.now,
    )
    return decided(world, picture)
