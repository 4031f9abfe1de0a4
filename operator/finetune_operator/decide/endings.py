"""What is decided when an attempt ends, and when the job does.

In: the world, and how it ended. Out: a `Decision`. The attempt is closed in the books by the same status that tells its end.
"""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.api.status import ConditionType, Phase
from finetune_operator.decide.books import SUCCEEDED, Ending, after_the_last, closed
from finetune_operator.decide.budget import judge
from finetune_operator.decide.decision import Decision, decided, delete, unfinished
from finetune_operator.decide.effects import ConfirmGone, Effect, SetStatus
from finetune_operator.decide.forensics import log_of, question
from finetune_operator.decide.outcome import AttemptFailure
from finetune_operator.decide.picture import ACCEPTED, Fact, Picture, as_before, is_written, open_facts
from finetune_operator.names import child_name
from finetune_operator.observe.views import RayJobView
from finetune_operator.observe.world import World
from finetune_training.contract.failure import FailureClass


def attempt_failed(world: World, failure: AttemptFailure) -> Decision:
    """The next one is made after a pause, or the job has failed. Where nobody has said why, a log is asked for first."""
    if asked := question(world, failure):
        return Decision(question=asked)
    picture = as_before(world)
    ending = Ending(failure.cls, failure.reason, failure.message, _end(world), failure.rank)
    books = closed(world, picture.books, ending)
    verdict = judge(world, failure, books.attempts)
    log = log_of(world, failure)
    picture = replace(
        picture,
        books=books,
        failed=verdict.failed,
        out_of_memory=verdict.out_of_memory,
        failure=failure.to_status(log),
    )
    confirm = () if world.rayjob else (ConfirmGone(child_name(world.job.name, world.attempt)),)
    said = f"Attempt {world.attempt} failed: {failure.message}"
    if verdict.pause is None:
        said += verdict.why
        return _failed(world, picture, failure.reason, said, warning=f"{failure.cls}: {said}", before=confirm)
    message = f"{said} Attempt {world.attempt + 1} starts after {verdict.pause:.0f} s."
    retrying = Fact(False, "Retrying", message)
    picture = replace(
        picture,
        phase=Phase.PENDING,
        next_attempt=world.now + verdict.pause,
        facts=open_facts(world, retrying, hangs=said if failure.cls == FailureClass.HANG else ""),
    )
    return decided(
        world,
        picture,
        before=confirm,
        warn=(failure.reason, f"{failure.cls}: {message}"),
        after=delete(world.rayjobs),
        revisit_after=verdict.pause,
    )


def _end(world: World) -> float:
    """Of an attempt that KubeRay has ended, which may be long ago."""
    end = world.rayjob.end if world.rayjob else None
    return world.now if end is None else min(end, world.now)


def taken_back(world: World) -> Decision:
    """A queue (Kueue) suspends the RayJob of an attempt that ran. Resumed, it would run the same attempt again, whose claim
    is taken: the next one waits in the queue instead. It does not count."""
    message = f"A queue took back the pods of attempt {world.attempt}: attempt {world.attempt + 1} waits for admission."
    picture = replace(
        as_before(world),
        phase=Phase.PENDING,
        next_attempt=world.now,
        facts=open_facts(world, Fact(False, "Preempted", message)),
    )
    return decided(world, picture, after=delete(world.rayjobs))


def suspended(world: World) -> Decision:
    """The attempt is taken away; the next one begins when the job is resumed. As for a Job, its time starts anew then."""
    gone = not world.rayjobs and not world.pods
    message = "The pods are gone; set spec.suspend to false to go on." if gone else "The pods are being taken away."
    before = as_before(world)
    picture = replace(
        before,
        phase=Phase.SUSPENDED,
        start=None,
        next_attempt=None,
        books=after_the_last(world, before.books, world.now) if gone else before.books,
        facts=open_facts(world, Fact(False, "Suspended", message), suspended=Fact(True, "Suspended", message)),
    )
    return decided(world, picture, after=delete(world.rayjobs))


def complete(world: World, rayjob: RayJobView) -> Decision:
    """The run has succeeded, and with it the job."""
    message = f"Attempt {world.attempt} did all it should."
    before = as_before(world)
    picture = replace(
        before,
        phase=Phase.SUCCEEDED,
        start=world.status.start or rayjob.created,
        completion=world.now,
        next_attempt=None,
        books=closed(world, before.books, Ending("", SUCCEEDED, "", _end(world))),
        facts={
            ConditionType.ACCEPTED: ACCEPTED,
            ConditionType.TRAINING: Fact(False, "Complete", message),
            ConditionType.COMPLETE: Fact(True, SUCCEEDED, message),
        },
    )
    return decided(world, picture, after=unfinished(world), revisit_after=world.spec.ttl_seconds_after_finished)


def failed(world: World, reason: str, message: str, *, accepted: Fact | None = None) -> Decision:
    """The job cannot go on, whatever its attempt does."""
    before, status = as_before(world), world.status
    if world.attempt == world.told and (status.next_attempt or status.holds(ConditionType.SUSPENDED)):
        books = after_the_last(world, before.books, world.now)
    else:
        books = closed(world, before.books, Ending("", reason, message, world.now))
    return _failed(world, replace(before, books=books), reason, message, accepted=accepted)


def _failed(
    world: World,
    picture: Picture,
    reason: str,
    message: str,
    *,
    warning: str = "",
    before: tuple[Effect, ...] = (),
    accepted: Fact | None = None,
) -> Decision:
    picture = replace(
        picture,
        phase=Phase.FAILED,
        completion=world.now,
        next_attempt=None,
        facts={
            ConditionType.ACCEPTED: accepted or ACCEPTED,
            ConditionType.TRAINING: Fact(False, reason, message),
            ConditionType.STALLED: Fact(True, reason, message),
            ConditionType.FAILED: Fact(True, reason, message),
        },
    )
    ttl = world.spec.ttl_seconds_after_finished
    return decided(
        world, picture, before=before, warn=(reason, warning or message), after=unfinished(world), revisit_after=ttl
    )


def after_the_end(world: World) -> Decision:
    """Free what is left of an attempt that was cut short; delete the children when their time has come. The job itself
    stays as it is, and never runs again: of a changed spec its status says that it was read, for those who wait for that."""
    read = {name: value for name, value in world.written.items() if name != "run"}
    read["observedGeneration"] = world.job.generation
    told = () if is_written(world, read) else (SetStatus(read),)
    ttl, end = world.spec.ttl_seconds_after_finished, world.status.completion
    left = None if ttl is None or end is None else end + ttl - world.now
    if left is not None and left <= 0:
        return Decision((*told, *delete(world.rayjobs)))
    return Decision((*told, *unfinished(world)), revisit_after=left)
