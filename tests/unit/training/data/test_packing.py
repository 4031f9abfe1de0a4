"""Packing loses nothing, overflows nothing, and depends on the lengths alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_training.data.packing import pack


@given(st.integers(1, 64).flatmap(lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity)))))
def test_every_document_is_in_exactly_one_bin_that_holds_it(drawn: tuple[int, list[int]]) -> None:
    capacity, lengths = drawn
    bins = pack(lengths, capacity)
    assert sorted(index for each in bins for index in each) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in each) <= capacity for each in bins)
    assert pack(tuple(lengths), capacity) == bins
    # No two bins would fit into one: best fit opens a bin only when no other has room.
    sums = sorted(sum(lengths[index] for index in each) for each in bins)
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_the_fullest_bin_with_room_is_chosen() -> None:
    assert pack([6, 5, 3, 4, 2], 10) == [[0, 3], [1, 2, 4]]
    assert pack([], 10) == []
    assert pack([10, 10], 10) == [[0], [1]]


def test_a_document_that_no_sample_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="11 tokens does not fit into a sample of 10"):
        pack([3, 11], 10)


def test_two_hundred_thousand_documents_are_packed_in_moments() -> None:
    """Quadratic packing would take a quarter of an hour."""
    lengths = [2 + (number * 2654435761 % 2**32) % 500 for number in range(200_000)]
    began = time.process_time()
    bins = pack(lengths, 512)
    assert time.process_time() - began < 10
    assert sum(lengths) / (len(bins) * 512) > 0.99
