from __future__ import annotations

from itertools import pairwise

import pytest

from finetune_training.checkpoint.turn import Turn


def test_later_turns_are_greater() -> None:
    turns = [Turn(1), Turn(1, 1), Turn(1, 2), Turn(1, 10), Turn(2), Turn(10)]
    assert all(earlier < later for earlier, later in pairwise(turns))
    assert Turn(2).next == Turn(2, 1)
    assert Turn(2, 1).next == Turn(2, 2)


@pytest.mark.parametrize("turn", [Turn(1), Turn(12), Turn(3, 1), Turn(3, 14)])
def test_a_turn_is_read_as_it_is_written(turn: Turn) -> None:
    assert Turn.of(str(turn)) == turn


@pytest.mark.parametrize("text", ["", "a", "1.", ".1", "1.0", "1.01", "1.2.3", "-1", "1 "])
def test_what_is_not_written_as_a_turn_is_none(text: str) -> None:
    assert Turn.of(text) is None
