"""How a run ends, on the terminal: a short table of what came of it, or one clear failure.

In: a `RunResult` or a `Failure`. Out: text for people, at any width and in any encoding. Text that came from elsewhere
(prompts, answers, messages) is never read as markup and brings no control characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import TextIOWrapper
from typing import TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from finetune_training.contract.failure import Failure, FailureClass
from finetune_training.events import wording
from finetune_training.events.result import RunResult, Sample, Scores

_LABEL_WIDTH = 6
_SAMPLE_LINES = 4


def console_on(stream: TextIO) -> Console:
    """A console on `stream`. What its encoding cannot show becomes `?`, never an error."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return Console(file=stream, highlight=False)


def open_console(*, stderr: bool = False) -> Console:
    """The console of this process. What its encoding cannot show becomes `?`, never an error."""
    console = Console(stderr=stderr, highlight=False)
    if isinstance(console.file, TextIOWrapper):
        console.file.reconfigure(errors="replace")
    return console


def summary(result: RunResult, *, report: str, result_uri: str, command: str) -> RenderableType:
    """What came of a run, on one screen: scores, one prompt with its answers, where all is, the `command` to try next."""
    return _Summary(result, report, result_uri, command)


def show_failure(failure: Failure, *, log: str | None, console: Console | None = None) -> None:
    """Why the run ended: class and reason, the message, what to do, more detail, where the log is."""
    console = console or open_console(stderr=True)
    names = dict.fromkeys((failure.cls.value, failure.reason))  # some reasons are named as their class
    rank = [] if failure.rank is None else [f"rank {failure.rank}"]
    color = "yellow" if failure.cls is FailureClass.INTERRUPTED else "red"
    heading = wording.printable(" · ".join([*names, *rank]), console.encoding)
    console.print(Text(heading, f"bold {color}"))
    arrow = wording.printable("→", console.encoding) + " "
    for sign, text, style in (
        ("", failure.message, ""),
        (arrow, failure.remedy, "bold"),
        ("", failure.detail, "dim"),
        ("", f"Log: {log}" if log else "", "dim"),
    ):
        body = Text(wording.printable(text, console.encoding).strip("\n"), style)
        # A log is searched and a path is copied: whole lines there.
        is_whole = not console.is_terminal or text == f"Log: {log}"
        lines = body.split("\n") if is_whole else _wrapped(body, console, len(arrow))
        for number, line in enumerate(lines if body else []):
            line.rstrip()
            console.print(Text(f"{'' if number else sign:<{len(arrow)}}", style) + line, soft_wrap=True)


def _wrapped(text: Text, console: Console, indent: int) -> list[Text]:
    room = max(1, console.width - indent)
    return [line for whole in text.split("\n", allow_blank=True) for line in whole.wrap(console, room) or [whole]]


@dataclass(frozen=True)
class _Summary:
    result: RunResult
    report: str
    result_uri: str
    command: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        result, encoding = self.result, options.encoding
        seconds = wording.duration(result.seconds)
        blocks: list[RenderableType] = [
            Text(f"{result.job}: {wording.times(result.steps, 'step')} in {seconds}", "bold")
        ]
        if result.evaluation.tuned:
            blocks.append(_scores(result.evaluation.baseline, result.evaluation.tuned, encoding))
        if result.samples:
            blocks.append(_answers(result.samples[0], console, options))
        blocks.append(self._places(encoding))
        for block in blocks:
            yield Group("", block)

    def _places(self, encoding: str) -> Table:
        table = _labelled()
        for name, text in (("Result", self.result_uri), ("Report", self.report), ("Next", self.command)):
            table.add_row(name, Text(wording.printable(text, encoding), "cyan" if name == "Next" else ""))
        return table


def _scores(base: Scores | None, tuned: Scores, encoding: str) -> Table:
    """Base against tuned, on the held-out rows."""
    better = base is not None and tuned.loss < base.loss
    heads = [("base", "dim"), ("tuned", "dim"), ("difference", "dim")]
    losses = [(wording.loss(tuned.loss), "bold")]
    perplexities = [(wording.perplexity(tuned.perplexity), "bold")]
    if base:
        color = "green" if better else "yellow"
        change = wording.difference(base=base.loss, tuned=tuned.loss)
        losses = [(wording.loss(base.loss), ""), *losses, (change, color)]
        change = wording.relative_difference(base=base.perplexity, tuned=tuned.perplexity)
        perplexities = [(wording.perplexity(base.perplexity), ""), *perplexities, (change, color)]
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(overflow="fold")
    for _ in losses:
        table.add_column(justify="right", overflow="fold")
    rows = (("", heads if base else heads[1:2]), ("held-out loss", losses), ("perplexity", perplexities))
    for name, cells in rows:
        table.add_row(name, *(Text(wording.printable(text, encoding), style) for text, style in cells))
    return table


def _answers(sample: Sample, console: Console, options: ConsoleOptions) -> Table:
    """One prompt, answered by both."""
    table, room = _labelled(), max(1, options.max_width - _LABEL_WIDTH - 2)
    for name, text in (("Prompt", sample.prompt), ("Base", sample.base), ("Tuned", sample.tuned)):
        if text is not None:
            shown = Text(wording.printable(text, options.encoding).strip("\n"), "bold" if name == "Tuned" else "")
            table.add_row(name, _beginning(shown, console, room, wording.printable(" …", options.encoding)))
    return table


def _beginning(text: Text, console: Console, room: int, more: str) -> Text:
    """The first lines, as they will be wrapped."""
    lines = [line for whole in text.split("\n") if whole.plain.strip() for line in whole.wrap(console, room)]
    if len(lines) > _SAMPLE_LINES:
        lines = lines[:_SAMPLE_LINES]
        lines[-1].rstrip()
        lines[-1].truncate(max(1, room - len(more)))
        lines[-1].append(more)
    return Text("\n").join(lines)


def _labelled() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    # Never "ellipsis", which is the default: not every encoding has that sign.
    table.add_column(style="dim", width=_LABEL_WIDTH, no_wrap=True, overflow="crop")
    table.add_column(overflow="fold")
    return table
