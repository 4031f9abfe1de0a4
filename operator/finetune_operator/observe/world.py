"""What `decide` looks at, read once: a job with its status as values, its attempt, its pods, and the time.

In: views. Out: a `World`. Only what belongs to the object of today counts: an earlier one may have had the same name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from finetune_operator.names import child_name
from finetune_operator.observe.store import Seen
from finetune_operator.observe.views import JobView, PodView, RayJobView, seconds

Json = Mapping[str, Any]

LOST_AFTER = 60.0
"""Seconds after a pod should have been gone when it is taken for lost, with its node."""


@dataclass(frozen=True)
class Status:
    """`status` as the operator last wrote it, and `run` as the driver did."""

    body: Json

    @property
    def attempt(self) -> int:
        return int(self.body.get("attempt") or 0)

    @property
    def failed(self) -> int:
        return int(self.body.get("failed") or 0)

    @property
    def out_of_memory(self) -> int:
        """Attempts that ended because a worker had no memory left."""
        return int(self.body.get("outOfMemory") or 0)

    @property
    def attempts(self) -> tuple[Json, ...]:
        """Those that have ended, the newest last."""
        return tuple(self.body.get("attempts") or ())

    @property
    def open(self) -> bool:
        """The end of the last attempt is not written down yet: it runs, or its pods are being taken away."""
        if not self.attempt or (self.attempts and self.attempts[-1]["attempt"] == self.attempt):
            return False
        return bool(self.body.get("current")) or not (self.next_attempt or self.holds("Suspended"))

    @property
    def phase(self) -> str:
        return str(self.body.get("phase") or "")

    @property
    def start(self) -> float | None:
        return seconds(self.body.get("startTime"))

    @property
    def completion(self) -> float | None:
        return seconds(self.body.get("completionTime"))

    @property
    def next_attempt(self) -> float | None:
        """When the attempt after a failed one may start. None: the last attempt did not fail, or its successor runs."""
        return seconds(self.body.get("nextAttemptTime"))

    @property
    def run(self) -> Json:
        """What the driver of the last attempt has written; empty before its first word."""
        run: Json = self.body.get("run") or {}
        return run if run.get("attempt") == self.attempt else {}

    def condition(self, kind: str) -> Json:
        """The condition of that type, or nothing."""
        return next((each for each in self.body.get("conditions") or () if each["type"] == kind), {})

    def holds(self, kind: str) -> bool:
        """Whether the condition is True."""
        return self.condition(kind).get("status") == "True"

    @property
    def ended(self) -> bool:
        """Complete or Failed: nothing runs any more, ever."""
        return self.holds("Complete") or self.holds("Failed")


@dataclass(frozen=True)
class World:
    """One job and all that belongs to it, at `now` (seconds since 1970)."""

    job: JobView
    status: Status
    rayjobs: tuple[RayJobView, ...]
    pods: tuple[PodView, ...]
    now: float
    log: str | None = None
    """The end of the log that a decision asked for. None: nobody has asked."""

    @cached_property
    def spec(self) -> Json:
        """What the job asks for."""
        spec: Json = json.loads(self.job.spec)
        return spec

    @property
    def workers(self) -> int:
        return int(self.spec["resources"].get("workers", 1))

    @property
    def gpus_per_worker(self) -> int:
        return int(self.spec["resources"].get("gpusPerWorker", 1))

    def pods_of(self, attempt: int) -> list[PodView]:
        """The pods of one attempt, its head first."""
        return sorted((each for each in self.pods if each.attempt == attempt), key=lambda each: not each.head)

    @property
    def all_run(self) -> bool:
        """All pods of the attempt do."""
        pods = [each for each in self.pods_of(self.attempt) if each.started is not None and not each.deleting]
        return len(pods) > self.workers

    @property
    def attempt(self) -> int:
        """The last attempt that was begun, whether or not the status says so yet."""
        return max([self.status.attempt, *(each.attempt for each in self.rayjobs)])

    @property
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
        seconds, start = self.job.active_deadline_seconds, self.status.start
        return None if seconds is None or start is None else start + seconds - self.now


def look(seen: Seen, now: float) -> World | None:
    """None: there is no such job."""
    if seen.job is None:
        return None
    uid = seen.job.uid
    return World(
        job=seen.job,
        status=Status(json.loads(seen.job.status)),
        rayjobs=tuple(
            each
            for each in seen.rayjobs
            if each.job_uid == uid and each.name == child_name(seen.job.name, each.attempt)  # not somebody's copy
        ),
        pods=tuple(each for each in seen.pods if each.job_uid == uid),
        now=now,
    )
