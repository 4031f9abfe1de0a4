"""Which checkpoints stay."""

from __future__ import annotations

import pytest

from finetune_training.checkpoint.retention import Kept, retired

FOUR = [Kept("d", 3.0), Kept("c", None), Kept("b", 2.0), Kept("a", 2.5)]


@pytest.mark.parametrize(
    ("keep", "spared", "expected"),
    [(1, [], ["c", "a"]), (2, [], ["a"]), (3, [], ["a"]), (4, [], []), (1, ["a"], ["c"])],
)
def test_the_newest_the_best_and_the_spared_checkpoints_stay(keep: int, spared: list[str], expected: list[str]) -> None:
    assert retired(FOUR, keep=keep, spared=spared) == expected


def test_without_scores_only_the_newest_checkpoints_stay() -> None:
    assert retired([Kept("c", None), Kept("b", None), Kept("a", None)], keep=1) == ["b", "a"]
