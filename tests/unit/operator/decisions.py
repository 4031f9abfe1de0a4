"""What tests ask of a decision."""

from __future__ import annotations

from finetune_operator.decide.decision import Decision
from finetune_operator.decide.effects import Announce, DeleteRayJob, Effect, SetStatus, Start
from tests.unit.operator.worlds import NOW
from tests.unit.operator.worlds import status as written
from tests.unit.operator.written import Status

DUE = written("Pending", 1, failed=1, next_attempt=NOW)
"""The status of a job whose second attempt may start now, after its first has failed."""


def kinds(decision: Decision) -> list[type[Effect]]:
    return [type(each) for each in decision.effects]


def told(decision: Decision) -> Status:
    """The status that is written. There must be one, and only one."""
    (status,) = (each.status for each in decision.effects if isinstance(each, SetStatus))
    return Status(dict(status))


def begun(decision: Decision) -> list[int]:
    return [each.attempt for each in decision.effects if isinstance(each, Start)]


def deleted(decision: Decision) -> list[str]:
    return [each.name for each in decision.effects if isinstance(each, DeleteRayJob)]


def announced(*decisions: Decision) -> list[str]:
    """The reasons of their Events."""
    return [each.reason for decision in decisions for each in decision.effects if isinstance(each, Announce)]
