"""What a check has found.

In: a check's name and its words. Out: a `Finding`, which a run heeds and a person reads: one shape for all that is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_training.contract.failure import FinetuneError


class Level(StrEnum):
    """How a check ended."""

    OK = "OK"
    WARNING = "Warning"
    ERROR = "Error"


@dataclass(frozen=True)
class Finding:
    """What one check found. `error`: what a run ends with, where `level` is ERROR."""

    check: str
    level: Level
    message: str
    remedy: str = ""
    error: FinetuneError | None = None


def good(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def doubtful(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, message, remedy)


def wrong(check: str, error: FinetuneError) -> Finding:
    return Finding(check, Level.ERROR, error.failure.message, error.failure.remedy, error)
