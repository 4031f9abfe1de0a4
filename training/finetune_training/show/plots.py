"""Numbers of a run → the plots of the report.

In: curves, bars, a histogram. Out: SVG text (canvas.py), or "" where there is nothing to draw. However long the run, a
plot stays small: a curve keeps the first, last, lowest and highest point of every stretch, so no spike is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_training.data.shards import Histogram
from finetune_training.events import wording
from finetune_training.show.canvas import (
    ACCENT,
    BASE,
    INK,
    MUTED,
    Size,
    name_below,
    new_axes,
    scale_steps,
    scale_values,
    to_svg,
    write,
)

Floats = npt.NDArray[np.float64]
Point = tuple[float, float]

_BUCKETS = 400
_LINE_HEIGHT = 15


@dataclass(frozen=True)
class Curve:
    """Values by step. `from_zero`: the axis begins at 0. `exponents`: ticks as `2e-4`. `window`: the bold line is the
    mean of so many steps."""

    name: str
    steps: Floats
    values: Floats
    from_zero: bool = True
    exponents: bool = False
    window: int = 1


@dataclass(frozen=True)
class HeldOut:
    """Held-out loss by step; `base` is that of the base model."""

    steps: Floats
    values: Floats
    base: float | None


def downsample(steps: Floats, values: Floats, *, buckets: int = _BUCKETS) -> tuple[Floats, Floats]:
    """At most four points from each of `buckets` stretches: the first, the last, the lowest and the highest, in order.
    A stretch without a number stays a gap."""
    if len(steps) <= 4 * buckets:
        return steps, values
    kept: list[int] = []
    for bucket in np.array_split(np.arange(len(steps)), buckets):
        finite = bucket[np.isfinite(values[bucket])]
        if len(finite) == 0:
            kept.append(int(bucket[0]))
            continue
        lowest, highest = finite[np.argmin(values[finite])], finite[np.argmax(values[finite])]
        kept += sorted({int(finite[0]), int(lowest), int(highest), int(finite[-1])})
    return steps[kept], values[kept]


def smoothing_window(steps: int) -> int:
    """Over how many steps to average: an odd number, 1 for runs too short to smooth."""
    return max(5, steps // 25) | 1 if steps >= 10 else 1


def smoothed(values: Floats, window: int) -> Floats:
    """The mean of the `window` values around each one; what is not a number is left out and stays a gap."""
    finite = np.isfinite(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(finite, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(finite)))
    places = np.arange(len(values))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    within = counts[high] - counts[low]
    means: Floats = np.where(finite, (sums[high] - sums[low]) / np.maximum(within, 1), np.nan)
    return means


def curve_plot(curve: Curve, size: Size) -> str:
    """One curve over the steps."""
    if not np.isfinite(curve.values).any():
        return ""
    figure, axes = new_axes(size)
    _draw(axes, curve)
    scale_steps(axes, float(curve.steps.max()))
    scale_values(axes, from_zero=curve.from_zero, exponents=curve.exponents)
    return to_svg(figure, f"{curve.name} by step")


def loss_plot(curve: Curve, held_out: HeldOut, size: Size) -> str:
    """Training loss, and the held-out loss on top of it. Each line is named where it ends."""
    steps, values = held_out.steps, held_out.values
    if held_out.base is not None:
        steps, values = np.concatenate(([0.0], steps)), np.concatenate(([held_out.base], values))
    if not np.isfinite(np.concatenate((curve.values, values))).any():
        return ""
    figure, axes = new_axes(size)
    ends = [("train", _draw(axes, curve), ACCENT)]
    dots = {"marker": "o", "markersize": 5} if len(values) <= 40 else {}
    axes.plot(steps, values, color=INK, linewidth=1, clip_on=False, zorder=4, **dots)
    scale_steps(axes, float(np.concatenate((curve.steps, steps)).max()))
    scale_values(axes, from_zero=False, lines=7)
    ends.append(("held-out", _end(held_out.steps, held_out.values), INK))
    _name_ends(axes, ends, size)
    if held_out.base is not None and math.isfinite(held_out.base):
        write(axes, "base", (0, held_out.base), (8, 3), color=INK)
    return to_svg(figure, "Training and held-out loss by step")


def comparison_plot(name: str, rows: Sequence[tuple[str, float, str]], size: Size) -> str:
    """Horizontal bars from zero, for the base and the tuned model: (model, value, value as text)."""
    figure, axes = new_axes(size)
    values = [value if math.isfinite(value) else 0.0 for _, value, _ in rows]
    places = list(reversed(range(len(rows))))
    axes.barh(places, values, height=0.6, color=[ACCENT] if len(rows) == 1 else [BASE, ACCENT])
    for place, value, (model, _, text) in zip(places, values, rows, strict=True):
        write(axes, text, (value, place), (6, -4), color=INK, fontweight=700)
        write(axes, model, (0, place), (-size.left, -4), color=MUTED)
    axes.set_xlim(0, max(values) or 1)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_axis_off()
    return to_svg(figure, f"{name}: " + ", ".join(f"{model} {text}" for model, _, text in rows))


def histogram_plot(lengths: Histogram, size: Size, *, max_length: int) -> str:
    """Bars of equal width, one for each bin, with the bins' edges below; a line where samples end."""
    filled = [number for number, rows in enumerate(lengths.counts) if rows]
    if not filled:
        return ""
    counts = lengths.counts[filled[0] : filled[-1] + 1]
    edges = lengths.edges[filled[0] : filled[-1] + 2]
    figure, axes = new_axes(size)
    axes.bar(np.arange(len(counts)) + 0.5, counts, width=0.86, color=BASE)
    shown = range(0, len(edges), math.ceil(len(edges) / 8))
    axes.set_xticks(list(shown), [wording.count(edges[place]) for place in shown])
    axes.set_xlim(0, len(counts))
    name_below(axes, "tokens")
    scale_values(axes, from_zero=True)
    if edges[0] < max_length <= edges[-1]:
        place = float(np.interp(max_length, edges, range(len(edges))))
        axes.axvline(place, color=INK, linewidth=1, dashes=(3, 3))
        write(axes, "maxLength", (place, 1), (0, 7), relative_to=("data", "axes fraction"), ha="right", color=INK)
    return to_svg(figure, "Rows by length in tokens")


def _draw(axes: Any, curve: Curve) -> Point:
    """The curve; returns where the bold line ends."""
    values = smoothed(curve.values, curve.window) if curve.window > 1 else curve.values
    if curve.window > 1:
        look = {"linewidth": 1, "alpha": 0.35} if len(values) <= 400 else {"linewidth": 0.5, "alpha": 0.3}
        dots = {"marker": "o", "markersize": 3} if len(values) <= 60 else {}
        axes.plot(*downsample(curve.steps, curve.values), color=ACCENT, **look, **dots)
    # A point between two gaps is no line: mark the points where they are few.
    dots = {"marker": "o", "markersize": 4} if len(values) < 10 else {}
    axes.plot(*downsample(curve.steps, values), color=ACCENT, linewidth=2, zorder=3, **dots)
    return _end(curve.steps, values)


def _end(steps: Floats, values: Floats) -> Point:
    """The last point with a number."""
    finite = np.flatnonzero(np.isfinite(values))
    return (float(steps[finite[-1]]), float(values[finite[-1]])) if len(finite) else (math.nan, math.nan)


def _name_ends(axes: Any, ends: Sequence[tuple[str, Point, str]], size: Size) -> None:
    """Names at the right of the lines' ends, pushed apart where they would touch."""
    low, high = axes.get_ylim()
    places = sorted(
        ((value - low) / (high - low) * size.inner_height, step, name, color)
        for name, (step, value), color in ends
        if math.isfinite(value)
    )
    push = max(0.0, _LINE_HEIGHT - (places[-1][0] - places[0][0])) / 2 if len(places) == 2 else 0.0
    for (place, step, name, color), moved in zip(places, (-push, push), strict=False):
        write(axes, name, (step, 0), (9, place + moved - 4), relative_to=("data", "axes fraction"), color=color)
