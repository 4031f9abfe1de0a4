"""The order of the samples: a pure function of (seed, samples, position)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_training.worker.position import EMPTY, Plan


def plan(samples: int = 10, batch: int = 4, *, epochs: float = 1, max_steps: int = 0, seed: int = 1) -> Plan:
    return Plan.of(samples=samples, global_batch_size=batch, seed=seed, epochs=epochs, max_steps=max_steps)


def used(plan: Plan) -> list[int]:
    return [index for step in range(plan.steps) for index in plan.step(step) if index != EMPTY]


@given(samples=st.integers(1, 60), batch=st.integers(1, 20), epochs=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_every_sample_is_used_once_in_each_epoch(samples: int, batch: int, epochs: int, seed: int) -> None:
    order = used(plan(samples, batch, epochs=epochs, seed=seed))
    for epoch in range(epochs):
        assert sorted(order[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@given(
    samples=st.integers(1, 40), ranks=st.sampled_from([1, 2, 4]), micro=st.sampled_from([1, 2]), first=st.integers(0, 5)
)
def test_ranks_and_micro_batches_cut_a_step_without_changing_it(
    samples: int, ranks: int, micro: int, first: int
) -> None:
    whole = plan(samples, 8, epochs=2)
    steps = max(0, whole.steps - first)
    cut: list[list[int]] = [[] for _ in range(steps)]
    for rank in range(ranks):
        batches = list(whole.micro_batches(first_step=first, rank=rank, world_size=ranks, micro_batch_size=micro))
        per_step = 8 // (ranks * micro)
        assert len(batches) == steps * per_step
        for number, batch in enumerate(batches):
            cut[number // per_step] += batch
    assert [Counter(step) for step in cut] == [Counter(whole.step(step)) for step in range(first, whole.steps)]


def test_epochs_are_shuffled_differently_and_seeds_too() -> None:
    two_epochs = used(plan(50, 5, epochs=2))
    assert two_epochs[:50] != two_epochs[50:]
    assert used(plan(50, 5, seed=1)) != used(plan(50, 5, seed=2))


def test_the_order_never_changes_between_versions() -> None:
    assert plan(8, 8, seed=42).step(0) == [3, 4, 2, 7, 6, 1, 5, 0]


def test_the_last_step_has_no_sample_twice() -> None:
    assert plan(10, 4).step(2)[2:] == [EMPTY, EMPTY]
    assert plan(10, 4).steps == 3


def test_max_steps_go_on_across_the_end_of_an_epoch() -> None:
    long = plan(10, 4, max_steps=5)
    assert (long.steps, len(used(long))) == (5, 20)
    assert sorted(used(long)[:10]) == list(range(10))


@pytest.mark.parametrize(("step", "epoch"), [(0, 0.0), (1, 0.4), (3, 1.0)])
def test_epochs_are_counted_in_samples(step: int, epoch: float) -> None:
    assert plan(10, 4).epoch_at(step) == pytest.approx(epoch)
