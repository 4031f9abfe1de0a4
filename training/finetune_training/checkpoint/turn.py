"""Who writes into a run's folder: an attempt, or the ranks of an attempt that were started again.

An attempt that has lost ranks starts them again by itself (repair.py). The lost ones may be alive still, on a machine that
does not answer; so each start has a turn of its own, and whatever keeps an older attempt away keeps an older turn away, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_TEXT = re.compile(r"(\d+)(?:\.([1-9]\d*))?")


@dataclass(frozen=True, order=True)
class Turn:
    """The `restart`-th new start of the ranks of an attempt, 0 for the first start. A later one is greater. As text, in the
    names of folders: `2`, `2.1`."""

    attempt: int
    restart: int = 0

    @classmethod
    def of(cls, text: str) -> Self | None:
        """None when the text names no turn."""
        match = _TEXT.fullmatch(text)
        return cls(int(match[1]), int(match[2] or 0)) if match else None

    @property
    def next(self) -> Turn:
        """Of the same attempt."""
        return Turn(self.attempt, self.restart + 1)

    def __str__(self) -> str:
        return f"{self.attempt}.{self.restart}" if self.restart else str(self.attempt)
