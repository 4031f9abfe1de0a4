"""A finished run → `report.html`: one file that shows what came of it, for the person who asked for it.

In: the job, its result, the data's statistics, the lines of `metrics.jsonl`. Out: HTML with nothing to load: styles and
plots are inside, there is no script, and all text that came from elsewhere is escaped. `report.html`, which lies beside this
file, is a page of frame.py; what the numbers mean is decided here, how they look there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from finetune_training.contract.spec import Job, MethodType
from finetune_training.data.shards import Statistics
from finetune_training.events import wording
from finetune_training.events.history import History, event_of, read_history
from finetune_training.events.result import RunResult
from finetune_training.events.usage import spent
from finetune_training.show import plots
from finetune_training.show.canvas import Size
from finetune_training.show.frame import filled
from finetune_training.show.marks import marked

_SAMPLE_LIMIT = 4_000
"""Sixteen prompts of this length with two answers, and everything else, stay below 1.5 MB even when each character has to be
escaped."""
_YAML_LIMIT = 60_000
_SMALL = Size(344, 200)
_TIME = {
    "training": ("Steps", "that count in the end"),
    "evaluating": ("Evaluation", "loss on the held-out rows"),
    "checkpointing": ("Checkpoints", "training waited for them"),
    "preparing": ("Data", "preparing it, or finding it prepared"),
    "starting": ("Start", "of the ranks, and loading the model"),
    "exporting": ("Export", "answers and artifacts"),
    "lost": ("Lost", "steps that had to be done again"),
    "between": ("Between attempts", ""),
    "other": ("Other", ""),
}


@dataclass(frozen=True)
class ReportInputs:
    """All that a report is made of. `records`: the lines of `metrics.jsonl`, attempt after attempt, each with its `attempt`.
    `now`: seconds since 1970."""

    job: Job
    job_yaml: str
    result: RunResult
    statistics: Statistics
    max_length: int
    records: list[dict[str, Any]]
    now: float


class Tile(NamedTuple):
    """One number at the top."""

    name: str
    value: str
    note: str = ""


class Plot(NamedTuple):
    """`unit` says what the vertical axis shows; `narrow` replaces `svg` on small screens."""

    title: str
    unit: str
    svg: Markup
    narrow: Markup = Markup("")


class Row(NamedTuple):
    """One line of a table of names and values."""

    name: str
    value: str
    note: str = ""


def render_report(inputs: ReportInputs) -> str:
    """The report as HTML text."""
    history = read_history(inputs.records)
    return filled(
        __package__,
        "report.html",
        title=f"{inputs.result.job} · fine-tuning report",
        result=inputs.result,
        keep=inputs.job.spec.checkpoint.keep,
        outcome=_outcome(inputs.result, history),
        facts=_facts(inputs, history),
        notices=_notices(history),
        tiles=_tiles(inputs, history),
        loss=_loss_plot(inputs, history),
        comparison=_comparison(inputs.result),
        curves=_curves(inputs.job, history),
        lengths=_lengths(inputs),
        samples=[_sample(sample.prompt, sample.base, sample.tuned) for sample in inputs.result.samples],
        data=_data(inputs.statistics),
        sources=history.inspected.sources if history.inspected else (),
        rows=[(row, marked(row)) for row in (history.inspected.rows if history.inspected else ())],
        time=_time(inputs),
        checkpoints=history.checkpoints,
        job_yaml=wording.shortened(inputs.job_yaml, _YAML_LIMIT),
    )


def _outcome(result: RunResult, history: History) -> str:
    """The sentence at the top; the training loss where there is no better measure."""
    sentence = wording.outcome(result.evaluation)
    if result.evaluation.tuned or not history.steps:
        return sentence
    losses = plots.smoothed(_column(history, "loss"), plots.smoothing_window(len(history.steps)))
    first, last = wording.loss(float(losses[0])), wording.loss(float(losses[-1]))
    course = f"went from {first} to {last}" if len(losses) > 1 else f"was {last}"
    return f"{sentence} Training loss {course}."


def _facts(inputs: ReportInputs, history: History) -> list[str]:
    """What a reader wants to know before the numbers: which model, on what, when."""
    result, sources = inputs.result, inputs.job.spec.dataset.train
    more = f" and {wording.times(len(sources) - 1, 'more source')}" if len(sources) > 1 else ""
    facts = [result.base_model, f"{sources[0].uri}{more}"]
    if result.resumed_from_step is not None:
        facts.append(f"attempt {result.attempt}, resumed from step {wording.count(result.resumed_from_step)}")
    elif result.attempt > 1:
        facts.append(f"attempt {result.attempt}")
    if history.ended is not None:
        ended = datetime.fromtimestamp(history.ended, UTC)
        facts.append(f"{ended.day} {ended:%B %Y, %H:%M} UTC")
    return facts


def _notices(history: History) -> list[str]:
    """What should not be overlooked."""
    unknown = sum(not math.isfinite(step.loss) for step in history.steps)
    notices = [f"The training loss was not a number in {wording.times(unknown, 'step')}."] if unknown else []
    warnings = [wording.shortened(message, 500) for message in history.warnings]
    left_out = len(warnings) - 20
    return [
        *notices,
        *warnings[:20],
        *([f"{wording.times(left_out, 'more warning')}: see metrics.jsonl."] if left_out > 0 else []),
    ]


def _tiles(inputs: ReportInputs, history: History) -> list[Tile]:
    result, spec = inputs.result, inputs.job.spec
    lora = spec.method.lora
    epochs = f"{history.steps[-1].epoch:,.2f}".rstrip("0").rstrip(".") if history.steps else ""
    method = (
        Tile("Trained", "LoRA", f"rank {lora.rank}, alpha {lora.alpha:g}")
        if spec.method.type is MethodType.LORA
        else Tile("Trained", "Every weight", "no adapter")
    )
    return [
        Tile(
            "Steps", wording.count(result.steps), f"{epochs} {'epoch' if epochs == '1' else 'epochs'}" if epochs else ""
        ),
        Tile("Tokens trained", _compact(history.tokens), f"up to {wording.count(inputs.max_length)} in a sample"),
        Tile("Tokens per second", wording.count(result.tokens_per_second), "padding not counted"),
        Tile("Useful tokens", wording.share(result.useful_token_ratio), "the rest is padding"),
        Tile("Time", wording.duration(result.seconds), f"{wording.duration(result.training_seconds)} in steps"),
        method,
    ]


def _compact(number: int) -> str:
    """A number that fits a tile."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= 10 * unit or (number >= unit and unit > 1e6):
            return f"{number / unit:,.1f} {name}"
    return wording.count(number)


def _column(history: History, name: str) -> plots.Floats:
    values = (getattr(step, name) for step in history.steps)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _loss_plot(inputs: ReportInputs, history: History) -> Plot | None:
    if len(history.steps) < 2:
        return None
    window = plots.smoothing_window(len(history.steps))
    curve = plots.Curve("Loss", _column(history, "step"), _column(history, "loss"), window=window)
    base = history.baseline.loss if history.baseline else None
    points = history.evaluations
    held_out = plots.HeldOut(
        np.array([point.step for point in points], dtype=np.float64),
        np.array([point.loss for point in points], dtype=np.float64),
        base,
    )
    # Alone in its row where there is nothing to compare.
    width = 702 if inputs.result.evaluation.tuned else 1060
    wide = plots.loss_plot(curve, held_out, Size(width, 280, right=64))
    narrow = plots.loss_plot(curve, held_out, Size(344, 240, right=60))
    smooth = f"; the bold line is the mean of {wording.count(window)} steps" if window > 1 else ""
    return Plot("Loss", f"nats per token{smooth}", Markup(wide), Markup(narrow)) if wide else None


def _comparison(result: RunResult) -> list[Plot]:
    """Base against tuned: loss and perplexity. The unit's place holds the difference."""
    base, tuned = result.evaluation.baseline, result.evaluation.tuned
    if tuned is None:
        return []
    both = [("base", base)] if base else []
    models = [*both, ("tuned", tuned)]
    losses = [(name, scores.loss, wording.loss(scores.loss)) for name, scores in models]
    perplexities = [(name, scores.perplexity, wording.perplexity(scores.perplexity)) for name, scores in models]
    changes = ("", "")
    if base and math.isfinite(base.loss - tuned.loss):
        changes = (
            wording.difference(base=base.loss, tuned=tuned.loss),
            wording.relative_difference(base=base.perplexity, tuned=tuned.perplexity),
        )
    size = Size(344, 42 * len(models), left=46, right=62, top=2, bottom=2)
    drawn = (("Held-out loss", losses), ("Held-out perplexity", perplexities))
    return [
        Plot(title, change, Markup(plots.comparison_plot(title, rows, size)))
        for (title, rows), change in zip(drawn, changes, strict=True)
    ]


def _curves(job: Job, history: History) -> list[Plot]:
    """What tells how the training went, besides the loss."""
    steps = _column(history, "step")
    window = plots.smoothing_window(len(steps)) if len(steps) > 200 else 1
    rate = plots.Curve("Learning rate", steps, _column(history, "learning_rate"), exponents=True)
    norm = plots.Curve("Gradient norm", steps, _column(history, "gradient_norm"), window=window)
    speed = plots.Curve("Tokens per second", steps, _column(history, "tokens_per_second"), window=window)
    drawn = [
        (rate, f"{job.spec.training.scheduler.value.lower()} schedule"),
        (norm, "before clipping"),
        (speed, "all ranks"),
    ]
    found = [Plot(curve.name, unit, Markup(plots.curve_plot(curve, _SMALL))) for curve, unit in drawn if len(steps) > 1]
    return [plot for plot in found if plot.svg]


def _lengths(inputs: ReportInputs) -> Plot | None:
    lengths, max_length = inputs.statistics.lengths, inputs.max_length
    wide = plots.histogram_plot(lengths, Size(522, 260, right=14, top=24), max_length=max_length)
    narrow = plots.histogram_plot(lengths, Size(344, 220, right=14, top=24), max_length=max_length)
    return Plot("Length", "rows by their tokens", Markup(wide), Markup(narrow)) if wide else None


def _sample(prompt: str, base: str | None, tuned: str) -> dict[str, str | None]:
    return {
        "prompt": wording.shortened(prompt, _SAMPLE_LIMIT),
        "base": None if base is None else wording.shortened(base, _SAMPLE_LIMIT),
        "tuned": wording.shortened(tuned, _SAMPLE_LIMIT),
    }


def _data(statistics: Statistics) -> list[Row]:
    dropped = sum(statistics.dropped.values())
    reasons = ", ".join(f"{reason} {wording.count(rows)}" for reason, rows in statistics.dropped.items() if rows)
    supervised = statistics.supervised_tokens / statistics.tokens if statistics.tokens else 0.0
    return [
        Row("Rows read", wording.count(statistics.rows)),
        Row("Dropped", wording.count(dropped), reasons),
        Row("Cut to maxLength", wording.count(statistics.truncated), "the end is lost"),
        Row("Split into samples", wording.count(statistics.split), "nothing is lost"),
        Row("Tokens", wording.count(statistics.tokens)),
        Row("Supervised tokens", wording.count(statistics.supervised_tokens), wording.share(supervised)),
        Row("Useful tokens", wording.share(statistics.useful_token_ratio), "the rest is padding"),
    ]


def _time(inputs: ReportInputs) -> list[tuple[str, str, str, str]]:
    """Where the time has gone, all attempts together: name, time, share and note of each kind that makes up a thousandth at
    least."""
    events = ((record.get("attempt", 1), event_of(record)) for record in inputs.records)
    seconds = spent(((attempt, event) for attempt, event in events if event), now=inputs.now)
    whole = sum(seconds.values())
    return [
        (name, wording.duration(seconds[kind]), wording.share(seconds[kind] / whole), note)
        for kind, (name, note) in _TIME.items()
        if seconds[kind] > whole / 1000
    ]
