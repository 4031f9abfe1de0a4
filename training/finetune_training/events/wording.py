"""Numbers as people read them, and the outcome of a run in one sentence.

In: plain numbers and `Evaluations`. Out: text. The report, the model card and the terminal say the same thing in the
same words, because they all take them from here.
"""

from __future__ import annotations

import math
import re

from finetune_training.events.result import Evaluations

MINUS = "\N{MINUS SIGN}"
_PLAIN = str.maketrans(
    {"→": "->", MINUS: "-", "–": "-", "·": "-", "…": "...", "✓": "+", "✗": "x", "‘": "'", "’": "'", "“": '"', "”": '"'}
)
"""Signs that poor encodings lack, spelled out."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""All that moves the cursor, changes colours or turns the writing direction; tab and line feed may stay."""


def count(number: float) -> str:
    """1240.4 → `1,240`."""
    return f"{number:,.0f}" if math.isfinite(number) else _no_number(number)


def loss(number: float) -> str:
    """4.0712 → `4.07`."""
    return f"{number:,.2f}" if math.isfinite(number) else _no_number(number)


def perplexity(number: float) -> str:
    """Three digits: `5.21`, `45.2`, `1,240`."""
    if not math.isfinite(number):
        return _no_number(number)
    if number >= 1e7:
        return f"{number:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{number:,.2f}" if number < 10 else f"{number:,.1f}" if number < 1000 else f"{number:,.0f}"


def share(part: float) -> str:
    """0.9843 → `98.4 %`. What is not all is never shown as 100 %."""
    if not math.isfinite(part):
        return _no_number(part)
    shown = f"{100 * part:.1f}"
    shown = "99.9" if shown == "100.0" and part < 1 else shown
    return f"{shown.removesuffix('.0')} %"


def difference(*, base: float, tuned: float) -> str:
    """Of two losses: `−0.26`."""
    change = tuned - base
    return f"{change:+.2f}".replace("-", MINUS) if math.isfinite(change) else "–"


def relative_difference(*, base: float, tuned: float) -> str:
    """Of two perplexities: `−22.9 %`."""
    change = tuned / base - 1 if math.isfinite(base) and base else math.nan
    return f"{100 * change:+,.1f} %".replace("-", MINUS) if math.isfinite(change) else "–"


def duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `2 min 14 s`, `3 h 05 min`, `2 d 4 h`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def clock(seconds: float) -> str:
    """`0:42`, `2:14`, `3:05:09`."""
    if not math.isfinite(seconds):
        return "-:--"
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def brief(seconds: float) -> str:
    """In as few letters as a table has room for: `40s`, `3m10s`, `2h05m`, `2d04h`."""
    whole = max(0, round(seconds))
    for unit, smaller, per in (("d", "h", 3600), ("h", "m", 60), ("m", "s", 1)):
        length = per * (24 if unit == "d" else 60)
        if whole >= length:
            return f"{whole // length}{unit}{whole % length // per:02d}{smaller}"
    return f"{whole}s"


def size(number: int) -> str:
    """Decimal units, as on disks: `12.4 MB`."""
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def times(number: int, noun: str) -> str:
    """`1 step`, `30 steps`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shortened(text: str, limit: int) -> str:
    """The beginning of `text`, and how much is left out."""
    return text if len(text) <= limit else f"{text[:limit].rstrip()} … ({count(len(text) - limit)} characters more)"


def printable(text: str, encoding: str) -> str:
    """`text` as a terminal or a log with that encoding can show it: no control characters, and `?` as a last resort."""
    text = _CONTROL.sub("", text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    return text


def outcome(evaluation: Evaluations) -> str:
    """What came of the run: `Held-out loss fell from 4.07 to 3.81: perplexity 58.6 → 45.2.`"""
    base, tuned = evaluation.baseline, evaluation.tuned
    if tuned is None:
        return "The tuned model was not evaluated."
    if not math.isfinite(tuned.loss):
        return "Held-out loss is not a number: the training diverged."
    now = f"{loss(tuned.loss)} (perplexity {perplexity(tuned.perplexity)})"
    if base is None:
        return f"Held-out loss is {now}. The base model was not evaluated."
    if not math.isfinite(base.loss):
        return f"Held-out loss is {now}. That of the base model is not a number."
    perplexities = f"perplexity {perplexity(base.perplexity)} → {perplexity(tuned.perplexity)}"
    before, after = loss(base.loss), loss(tuned.loss)
    if before == after:
        return f"Held-out loss stayed at {now}."
    verb = "fell" if tuned.loss < base.loss else "rose"
    return f"Held-out loss {verb} from {before} to {after}: {perplexities}."


def _no_number(number: float) -> str:
    return "not a number" if math.isnan(number) else "infinite" if number > 0 else f"{MINUS}infinite"
