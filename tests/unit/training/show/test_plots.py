"""Curves stay small and lose nothing that matters."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from finetune_training.data.shards import Histogram
from finetune_training.show.canvas import Size
from finetune_training.show.plots import Curve, curve_plot, downsample, histogram_plot, smoothed, smoothing_window


def ticks(svg: str) -> list[str]:
    return re.findall(r">([^<\n]+)</text>", svg)


def test_a_long_curve_keeps_first_last_lowest_and_highest_of_every_stretch() -> None:
    random = np.random.default_rng(0)
    steps, values = np.arange(1, 100_001, dtype=np.float64), random.normal(size=100_000)
    values[70_123], values[70_124] = 1e6, -1e6
    kept_steps, kept = downsample(steps, values, buckets=100)
    assert len(kept) <= 400
    assert (np.diff(kept_steps) > 0).all()
    assert set(kept) <= set(values)
    for stretch in np.split(np.arange(100_000), 100):
        inside = set(kept[np.isin(kept_steps, steps[stretch])])
        assert inside == {values[stretch][0], values[stretch][-1], values[stretch].min(), values[stretch].max()}


def test_a_short_curve_is_left_as_it_is() -> None:
    steps, values = np.arange(5.0), np.array([1.0, math.nan, 2.0, 3.0, 4.0])
    kept_steps, kept = downsample(steps, values)
    assert kept_steps is steps
    assert kept is values


def test_a_stretch_without_a_number_stays_a_gap() -> None:
    values = np.ones(10_000)
    values[2_000:4_000] = math.nan
    values[7_777] = math.nan
    kept_steps, kept = downsample(np.arange(10_000.0), values, buckets=100)
    gaps = kept_steps[np.isnan(kept)]
    assert ((gaps >= 2_000) & (gaps < 4_000)).all()
    assert len(gaps) == 20


def test_smoothing_is_the_mean_of_the_neighbours_and_skips_what_is_no_number() -> None:
    values = np.array([1.0, 2.0, 6.0, math.nan, 4.0])
    np.testing.assert_allclose(smoothed(values, 3), [1.5, 3.0, 4.0, math.nan, 4.0])


@pytest.mark.parametrize(("steps", "window"), [(1, 1), (9, 1), (30, 5), (1_000, 41), (100_000, 4_001)])
def test_longer_runs_are_smoothed_over_more_steps(steps: int, window: int) -> None:
    assert smoothing_window(steps) == window


def test_learning_rates_are_written_as_in_the_job() -> None:
    svg = curve_plot(Curve("Rate", np.array([1.0, 2.0]), np.array([0.0, 2e-4]), exponents=True), Size(344, 200))
    assert [tick for tick in ticks(svg) if "e-" in tick] == ["5e-5", "1e-4", "1.5e-4", "2e-4"]


@pytest.mark.parametrize(
    ("top", "expected"),
    [(1.0, "0.5"), (1300.0, "1,000"), (130_000.0, "100k"), (2_400_000.0, "2.0M"), (3e12, "2e12"), (1e-5, "5e-6")],
)
def test_tick_labels_stay_short_at_any_magnitude(top: float, expected: str) -> None:
    svg = curve_plot(Curve("Speed", np.array([1.0, 2.0]), np.array([top / 2, top])), Size(344, 200))
    assert expected in ticks(svg)
    assert max(map(len, ticks(svg))) <= 7


def test_the_histogram_shows_only_the_bins_in_use_and_where_samples_end() -> None:
    lengths = Histogram(edges=[0, 1000, 2000, 3000, 4000], counts=[0, 5, 7, 0])
    svg = histogram_plot(lengths, Size(344, 200), max_length=2048)
    assert {"1,000", "2,000", "3,000", "maxLength"} <= set(ticks(svg))
    assert "4,000" not in ticks(svg)
    assert histogram_plot(Histogram([0, 10], [0]), Size(344, 200), max_length=2048) == ""
