"""What `decide` looks at, read once: a job with its spec and status as values, its attempt, its pods, and the time.

In: views. Out: a `World`. Only what belongs to the object of today counts: an earlier one may have had the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pydantic_core import from_json

from finetune_operator.api.job import LiveSpec
from finetune_operator.api.reading import read
from finetune_operator.api.status import ConditionType, FineTuneJobStatus
from finetune_operator.names import child_name
from finetune_operator.observe.store import Seen
from finetune_operator.observe.views import JobView, PodView, RayJobView
from finetune_training.contract.record import Json
from finetune_training.contract.run import RunStatus

LOST_AFTER = 60.0
"""Seconds after a pod should have been gone when it is taken for lost, with its node."""


@dataclass(frozen=True)
class World:
    """One job and all that belongs to it, at `now` (seconds since 1970)."""

    job: JobView
    rayjobs: tuple[RayJobView, ...]
    pods: tuple[PodView, ...]
    now: float
    log: str | None = None
    """The end of the log that a decision asked for. None: nobody has asked."""

    @cached_property
    def spec(self) -> LiveSpec:
        """What the job asks for."""
        return read(LiveSpec, self.job.spec, extra="ignore")

    @cached_property
    def status(self) -> FineTuneJobStatus:
        """As the operator last wrote it, and `run` as a driver did."""
        return read(FineTuneJobStatus, self.job.status)

    @cached_property
    def written(self) -> Json:
        """The status word for word: also what this operator does not know."""
        body: Json = from_json(self.job.status)
        return body

    @property
    def told(self) -> int:
        """The last attempt of which the status speaks; 0: none."""
        return self.status.attempt or 0

    @cached_property
    def run(self) -> RunStatus | None:
        """What the driver of that attempt has written; None before its first word."""
        run = self.status.run
        return run if run and run.attempt == self.told else None

    @property
    def stage(self) -> str:
        """What that attempt does, as its driver says; empty before its first word."""
        return self.run.stage if self.run else ""

    @cached_property
    def open(self) -> bool:
        """The end of that attempt is not written down yet: it runs, or its pods are being taken away."""
        status = self.status
        if not self.told or (status.attempts and status.attempts[-1].attempt == self.told):
            return False
        return status.current is not None or not (status.next_attempt or status.holds(ConditionType.SUSPENDED))

    @property
    def workers(self) -> int:
        return self.spec.resources.workers

    @property
    def gpus_per_worker(self) -> int:
        return self.spec.resources.gpus_per_worker

    def pods_of(self, attempt: int) -> list[PodView]:
        """The pods of one attempt, its head first."""
        return [each for each in self._heads_first if each.attempt == attempt]

    @cached_property
    def _heads_first(self) -> list[PodView]:
        return sorted(self.pods, key=lambda each: not each.head)

    @property
    def all_run(self) -> bool:
        """All pods of the attempt do."""
        pods = [each for each in self.pods_of(self.attempt) if each.started is not None and not each.deleting]
        return len(pods) > self.workers

    @cached_property
    def attempt(self) -> int:
        """The last attempt that was begun, whether or not the status says so yet."""
        return max([self.told, *(each.attempt for each in self.rayjobs)])

    @cached_property
    def rayjob(self) -> RayJobView | None:
        """The RayJob of that attempt."""
        return next((each for each in self.rayjobs if each.attempt == self.attempt), None)

    @property
    def pods_lost(self) -> list[PodView]:
        """Workers of the attempt that should have been gone long ago: their node does not answer. Nobody replaces them while
        they are there."""
        pods = self.pods_of(self.attempt)
        return [each for each in pods if not each.head and each.gone_by and self.now > each.gone_by + LOST_AFTER]

    @property
    def pods_left(self) -> list[PodView]:
        """Pods that are there. One whose node does not answer is never reported gone; the attempt that it is of finds a
        newer claim in the store."""
        return [each for each in self.pods if each.gone_by is None or self.now <= each.gone_by + LOST_AFTER]

    @property
    def seconds_left(self) -> float | None:
        """Of spec.activeDeadlineSeconds. None: there is no deadline."""
        limit, start = self.spec.active_deadline_seconds, self.status.start
        return None if limit is None or start is None else start + limit - self.now


def look(seen: Seen, now: float) -> World | None:
    """None: there is no such job."""
    if seen.job is None:
        return None
    uid = seen.job.uid
    return World(
        job=seen.job,
        rayjobs=tuple(
            each
            for each in seen.rayjobs
            if each.job_uid == uid and each.name == child_name(seen.job.name, each.attempt)  # not somebody's copy
        ),
        pods=tuple(each for each in seen.pods if each.job_uid == uid),
        now=now,
    )
