"""Empty axes for a plot, and the finished figure as SVG text that lies inside a page.

In: a size, limits, places. Out: axes without chartjunk; `<svg>` elements that take colours and font from the page's
style sheet, so that they follow light and dark. matplotlib is imported when the first plot is drawn: most commands draw
none. No pyplot: nothing global is left behind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import Any

from finetune_training.events import wording

INK, MUTED, RULE, ACCENT, BASE = "#00000a", "#00000b", "#00000c", "#00000d", "#00000e"
"""Stand-ins while matplotlib draws; the page knows the real colours."""
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", BASE: "--base"}
_FONT_SIZE = 11


@dataclass(frozen=True)
class Size:
    """Of a plot, in CSS pixels, with the margins around its axes."""

    width: int
    height: int
    left: int = 42
    right: int = 8
    top: int = 8
    bottom: int = 38

    @property
    def inner_height(self) -> int:
        return self.height - self.top - self.bottom


def new_axes(size: Size) -> tuple[Any, Any]:
    """A figure of that size, and its only axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size.width / 72, size.height / 72))
    left, bottom = size.left / size.width, size.bottom / size.height
    inner_width = (size.width - size.left - size.right) / size.width
    axes = figure.add_axes((left, bottom, inner_width, size.inner_height / size.height))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=6, labelcolor=MUTED, labelsize=_FONT_SIZE)
    axes.set_axisbelow(True)
    return figure, axes


def write(
    axes: Any,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    *,
    relative_to: Any = "data",
    **look: Any,
) -> None:
    """`text` at `place`, moved by `offset` pixels."""
    axes.annotate(text, place, offset, relative_to, "offset points", fontsize=_FONT_SIZE, annotation_clip=False, **look)


def name_below(axes: Any, text: str) -> None:
    """What the horizontal axis shows."""
    axes.set_xlabel(text, color=MUTED, fontsize=_FONT_SIZE, labelpad=3)


def scale_steps(axes: Any, last: float) -> None:
    """The horizontal axis: steps from 0 to `last`."""
    from matplotlib.ticker import MaxNLocator

    last = max(1.0, last)
    places = MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True).tick_values(0, last)
    places = [place for place in places if 0 <= place <= last]
    axes.set_xlim(0, last)
    axes.set_xticks(places, [wording.count(place) for place in places])
    name_below(axes, "step")


def scale_values(axes: Any, *, from_zero: bool, exponents: bool = False, lines: int = 5) -> None:
    """The vertical axis: at most `lines` or so round numbers, a hairline at each. `exponents`: as `2e-4`."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_ylim()
    low = 0.0 if from_zero else low
    if not low < high:
        low, high = low - 0.5, low + 0.5
    locator = MaxNLocator(nbins=lines, steps=[1, 2, 5, 10])
    places = [float(place) for place in locator.tick_values(low, high) if low <= place <= high]
    axes.set_ylim(low, high)
    axes.set_yticks(places, [_exponent(place) if exponents else _tick(place, places) for place in places])
    axes.grid(axis="y", color=RULE, linewidth=1)


def to_svg(figure: Any, label: str) -> str:
    """The figure as an `<svg>` for the page: no prolog, no metadata, colours by name. `label` is read out."""
    import matplotlib

    text = StringIO()
    width, height = figure.get_size_inches()
    # The salt goes into the ids of clip paths and markers: they must differ between the plots of one page.
    settings = {"svg.fonttype": "none", "svg.hashsalt": f"{label} {width} {height}"}
    with matplotlib.rc_context(settings):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _for_page(text.getvalue(), label)


def _for_page(svg: str, label: str) -> str:
    view_box = re.search(r'viewBox="[^"]+"', svg)
    assert view_box, "matplotlib always writes one"
    svg = svg[svg.index(">", view_box.end()) + 1 :]
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"|font-family: [^;"]*;? ?', "", svg)
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"\s*\n", "", re.sub(r"(\.\d\d)\d+", r"\1", path[0])), svg)
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    svg = re.sub(r"\n\s*", "\n", svg)
    return f'<svg {view_box[0]} role="img" aria-label="{label}">{svg}'


def _tick(value: float, places: Sequence[float]) -> str:
    """As many decimals as tell neighbours apart."""
    top = max(map(abs, places))
    gap = min((right - left for left, right in pairwise(places)), default=1.0)
    if top >= 1e9 or gap < 1e-4:
        return _exponent(value)
    unit, name = (1e6, "M") if top >= 1e6 else (1e3, "k") if top >= 1e5 else (1.0, "")
    decimals = max(0, math.ceil(-math.log10(gap / unit) - 1e-9))
    return f"{value / unit:,.{decimals}f}{name}" if value else "0"


def _exponent(value: float) -> str:
    """0.00015 → `1.5e-4`."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if value else "0"
