"""What is so of a job → a `Decision`: its status, the Events about it, and the order of the effects.

In: the world and a `Picture`. Out: a `Decision` that has no effects if the API server has the status already. Shared by all
that decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from finetune_operator.api.status import ConditionType
from finetune_operator.decide.effects import Announce, DeleteRayJob, Effect, LogOf, SetStatus
from finetune_operator.decide.picture import Fact, Picture, as_before, is_written, open_facts, render_status
from finetune_operator.decide.relief import relieved
from finetune_operator.observe.views import RayJobView
from finetune_operator.observe.world import World


@dataclass(frozen=True)
class Decision:
    """What to do now, and in how many seconds to look again if nothing happens. With a `question` there are no effects: it is
    decided again with the answer in the world."""

    effects: tuple[Effect, ...] = ()
    revisit_after: float | None = None
    question: LogOf | None = None


def decided(
    world: World,
    picture: Picture,
    *,
    before: tuple[Effect, ...] = (),
    after: tuple[Effect, ...] = (),
    warn: tuple[str, str] | None = None,
    revisit_after: float | None = None,
) -> Decision:
    """Children that begin come before the status that speaks of them, children that end after it. An Event tells of each
    new phase after the first, or `warn`s with a reason and a message; another one of memory that was short."""
    job, old = world.job, world.status
    relief = relieved(world)
    if relief:
        picture = replace(picture, memory=relief[0])
    status = render_status(old, picture, generation=job.generation, now=world.now).to_json()
    told: tuple[Effect, ...] = ()
    if not is_written(world, status):
        told = (SetStatus(status),)
        if relief:
            told += (Announce("Warning", "MemoryRelieved", relief[1]),)
        if warn:
            told += (Announce("Warning", *warn),)
        elif old.phase not in (None, "", picture.phase):
            told += (Announce("Normal", picture.phase, picture.facts[ConditionType.TRAINING].message),)
    left = [each for each in (revisit_after, world.seconds_left) if each is not None]
    return Decision((*before, *told, *after), min(left) if left else None)


def unchanged(world: World, *, after: tuple[Effect, ...] = (), revisit_after: float | None = None) -> Decision:
    """Nothing new but for the spec's generation, and that a suspended job was resumed."""
    training, suspended = world.status.condition(ConditionType.TRAINING), None
    fact = Fact(False, training.reason, training.message) if training else Fact(False, "WaitingForPods")
    if world.status.holds(ConditionType.SUSPENDED):
        fact = Fact(False, "Resuming", "The job goes on as soon as the last attempt's pods are gone.")
        suspended = Fact(True, "Resuming", fact.message)
    picture = replace(as_before(world), facts=open_facts(world, fact, suspended=suspended))
    return decided(world, picture, after=after, revisit_after=revisit_after)


def delete(rayjobs: Iterable[RayJobView]) -> tuple[Effect, ...]:
    """Those that are not going yet."""
    return tuple(DeleteRayJob(each.name, each.uid) for each in rayjobs if not each.deleting)


def unfinished(world: World) -> tuple[Effect, ...]:
    """RayJobs that still hold a cluster. KubeRay has taken down those of the others, but not of one that it found invalid."""
    return delete(each for each in world.rayjobs if each.deployment_status not in ("Complete", "Failed"))
