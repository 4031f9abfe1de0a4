"""What the operator does to the API server, as values: a `Decision` has them, and `controller` carries them out in order.

In each list what must survive a crash comes in such an order that deciding again, after any of them, goes on and repeats
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune_operator.decide.plan import Plan
from finetune_training.contract.record import Json


@dataclass(frozen=True)
class Start:
    """Make the attempt's RayJob, if it is not there, and its ConfigMap; the account of its pods first. `out_of_memory`: how
    often an attempt has ended for want of memory."""

    plan: Plan
    attempt: int
    out_of_memory: int = 0


@dataclass(frozen=True)
class ConfirmGone:
    """Ask the API server whether the RayJob is really gone, before its attempt is given up."""

    name: str


@dataclass(frozen=True)
class DeleteRayJob:
    """Delete it with all that it has made. It is no error if it is gone."""

    name: str
    uid: str


@dataclass(frozen=True)
class ForgetPod:
    """Take a pod out of the API server whose node does not answer, so that it is replaced. What it still does there does not
    count: ranks that are started again have a turn of their own."""

    name: str
    uid: str


@dataclass(frozen=True)
class SetStatus:
    """Write `status` but for `run`."""

    status: Json


@dataclass(frozen=True)
class Announce:
    """Post an Event about the job."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Effect = Start | ConfirmGone | DeleteRayJob | ForgetPod | SetStatus | Announce


@dataclass(frozen=True)
class LogOf:
    """The end of a container's log."""

    pod: str
    container: str
