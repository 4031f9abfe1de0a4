"""The operator's writes for one job as templates, which the floor fills in for each of its jobs.

In: requests as operator_recorder.py has kept them, with `$NAMESPACE`, `$JOB` and the like where jobs differ. Out: the same for
one job, and how many of each kind many jobs take. The children's names are made by the operator's own functions.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

from finetune_operator import names

Phase = Literal["start", "running"]
Request = tuple[str, str]
"""Method and resource, as the operator's metrics count them; an empty resource is any."""
Fillings = tuple[tuple[str, str], ...]
ATTEMPT = 1
"""The only one that is measured."""
RAYJOB_UID = "$RAYJOB"


@dataclass(frozen=True)
class Write:
    """One request. `kind` and `accept` are headers."""

    method: str
    resource: str
    path: str
    body: str
    kind: str
    accept: str


@dataclass(frozen=True)
class Life:
    """What the operator writes when a job is created, and when its RayJob runs. `phase`: the job's own, after that."""

    start: tuple[Write, ...]
    running: tuple[Write, ...]
    phase: str

    def of(self, phase: Phase) -> tuple[Write, ...]:
        """By the name of the phase."""
        return self.start if phase == "start" else self.running

    def wanted(self, phase: Phase, jobs: int) -> Counter[Request]:
        """How many requests of each kind so many jobs take."""
        one = Counter((write.method, write.resource) for write in self.of(phase))
        return Counter({request: count * jobs for request, count in one.items()})

    @property
    def resources(self) -> frozenset[str]:
        """All that is written."""
        return frozenset(write.resource for write in (*self.start, *self.running))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Life:
        found = json.loads(text)
        start, running = (tuple(Write(**each) for each in found[phase]) for phase in ("start", "running"))
        return cls(start, running, found["phase"])


def fillings(namespace: str, job: str, uid: str) -> Fillings:
    """Placeholders with what each is for one job. The longer names come first, because the others are parts of them."""
    return (
        ("$CONFIG", names.config_name(job, ATTEMPT, uid)),
        ("$CHILD", names.child_name(job, ATTEMPT)),
        ("$NAMESPACE", namespace),
        ("$JOB", job),
        ("$UID", uid),
    )


def filled(text: str, pairs: Fillings) -> str:
    """A template with its placeholders replaced."""
    for placeholder, value in pairs:
        text = text.replace(placeholder, value)
    return text


def template(text: str) -> str:
    """What the operator has made for `$JOB`, with placeholders for the names that it has made of that."""
    for placeholder, value in fillings("$NAMESPACE", "$JOB", "$UID"):
        text = text.replace(value, placeholder)
    return text
