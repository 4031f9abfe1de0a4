"""Which checkpoints stay.

In: the checkpoints that count, with their scores. Out: the names of those that a new one retires. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A checkpoint that counts. `score`: its loss on the held-out rows, less is better, None when it has none."""

    name: str
    score: float | None


def retired(checkpoints: Sequence[Kept], *, keep: int, spared: Collection[str] = ()) -> list[str]:
    """All but the `keep` newest, the best, and those that are spared. `checkpoints`: newest first, the new one included."""
    best = best_of(checkpoints)
    return [each.name for each in checkpoints[keep:] if each != best and each.name not in spared]


def best_of(checkpoints: Sequence[Kept]) -> Kept | None:
    """The one with the lowest score, None when none has any. `checkpoints`: newest first; of equals the newest."""
    scored = [each for each in checkpoints if each.score is not None]
    return min(scored, key=lambda each: each.score or 0.0, default=None)
