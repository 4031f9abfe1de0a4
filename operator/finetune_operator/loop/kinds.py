"""The kinds of objects that the operator looks at, once: for its watches and for its lists.

Of those that belong to jobs only what has our labels is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from finetune_operator import names
from finetune_operator.act.apiserver import CORE, JOBS, RAYJOBS
from finetune_operator.observe.views import JobView, PodView, RayJobView, View, view_job, view_pod, view_rayjob
from finetune_training.contract.record import Json


@dataclass(frozen=True)
class Kind:
    """`view` makes a `type` of an object. `label`: what an object must have; empty: nothing."""

    type: type[View]
    view: Callable[[Json], View]
    path: str
    group: str
    version: str
    resource: str
    label: str = ""


KINDS: Final = (
    Kind(RayJobView, view_rayjob, RAYJOBS, names.RAY_GROUP, names.RAY_VERSION, names.RAYJOBS, names.UID_LABEL),
    Kind(PodView, view_pod, CORE, "", "v1", "pods", names.UID_LABEL),
    Kind(JobView, view_job, JOBS, names.GROUP, names.VERSION, names.PLURAL),
)
"""In the order in which they are listed: a job is looked at when its children are known."""
