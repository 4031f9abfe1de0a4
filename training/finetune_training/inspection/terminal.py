"""An inspection on a terminal, in a pipe or in a log.

In: an `Inspection`. Out: lines for people. What is learnt is coloured where there are colours, else it stands between brackets,
and the legend says which. Rows come from anywhere: they are never read as markup and bring no control characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from finetune_training.events import wording
from finetune_training.events.specimen import Specimen, joined
from finetune_training.inspection.inspection import Inspection
from finetune_training.inspection.sentences import columns_of, files_of
from finetune_training.preflight.finding import Finding, Level
from finetune_training.sources.overview import Overview

_LIMIT = 2_400
"""Of one row, so many characters are shown; the row that was asked for is shown whole."""
_BRACKETS = (("⟦", "⟧"), ("[[", "]]"))
_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}
_LEARNT, _SPECIAL, _SHOWN = "green", "cyan", "dim"
_INDENT = "  "


def show_inspection(inspection: Inspection, console: Console) -> None:
    """Sources, rows, checks."""
    if inspection.sources:
        _heading("Sources", console)
        for source in inspection.sources:
            _source(source, console)
    if inspection.rows:
        show_rows(inspection.rows, console)
    _heading("Checks", console)
    width = max(len(check.check) for check in inspection.checks)
    for check in inspection.checks:
        _check(check, width, console)


def show_rows(rows: Sequence[Specimen], console: Console, *, whole: bool = False) -> None:
    """Rows as they are trained."""
    colours = _has_colours(console)
    _heading("Rows as they are trained", console)
    _line(_legend(console, colours=colours), console)
    for row in rows:
        console.print()
        _line(_text(row.where, console, "bold"), console)
        _line(_text(" · ".join(row.facts), console, "dim"), console)
        for note in row.notes:
            _line(_text(note, console, "yellow" if row.dropped else "dim"), console)
        _body(row if whole else row.shortened(_LIMIT), console, colours=colours)


def _heading(text: str, console: Console) -> None:
    console.print()
    console.print(Text(text, "bold"))


def _source(source: Overview, console: Console) -> None:
    """What of a source may be a mistake stands out: it is read before a run, not after."""
    more = " …" if source.files > 1 else ""
    used, ignored = columns_of(source)
    _line(Text.assemble(_text(source.source, console, "bold"), _text(f"  {files_of(source)}", console)), console)
    _line(_text(source.first + more, console, "dim"), console)
    _line(Text.assemble(_text(used, console), _text(ignored, console, "yellow")), console)


def _check(check: Finding, width: int, console: Console) -> None:
    said = _text(f"{check.message} {check.remedy}".strip(), console, "dim" if check.level is Level.OK else "")
    head = Text.assemble((f"{check.level:<9}", _STYLES[check.level]), f"{check.check:<{width}}  ")
    if not console.is_terminal or len(head) > console.width // 2:
        _line(Text.assemble(head, said), console)
        return
    for number, line in enumerate(said.wrap(console, max(1, console.width - len(_INDENT) - len(head)))):
        before = Text(" " * len(head)) if number else head
        console.print(Text.assemble(_INDENT, before, line), soft_wrap=True)


def _legend(console: Console, *, colours: bool) -> Text:
    if colours:
        return Text.assemble(("learnt", _LEARNT), ("  shown and not learnt", _SHOWN), ("  special token", _SPECIAL))
    first, last = _brackets(console)
    return _text(f"{first}learnt{last}; what stands outside is shown to the model and not learnt.", console)


def _body(row: Specimen, console: Console, *, colours: bool) -> None:
    parts = _coloured(row, console) if colours else map(Text, _bracketed(row, console))
    lines = list(Text.assemble(*parts).split("\n", allow_blank=True))
    for line in lines if lines[-1].plain.strip() else lines[:-1]:
        _line(line, console, indent=_INDENT * 2)


def _coloured(row: Specimen, console: Console) -> Iterator[Text]:
    for piece in joined(row.pieces):
        colour = _LEARNT if piece.learnt else _SPECIAL if piece.special else _SHOWN
        yield _text(piece.text, console, f"bold {colour}" if piece.learnt and piece.special else colour)


def _bracketed(row: Specimen, console: Console) -> Iterator[str]:
    """Learnt pieces that touch, special or not, stand between one pair of brackets."""
    first, last = _brackets(console)
    within = False
    for piece in row.pieces:
        if piece.learnt != within:
            yield first if piece.learnt else last
            within = piece.learnt
        yield wording.printable(piece.text, console.encoding)
    if within:
        yield last


def _line(text: Text, console: Console, *, indent: str = _INDENT) -> None:
    """A line, wrapped on a terminal only: a log is searched and a path is copied."""
    lines = list(text.wrap(console, max(1, console.width - len(indent)))) if console.is_terminal else [text]
    for line in lines or [Text()]:
        console.print(Text.assemble(indent, line), soft_wrap=True)


def _has_colours(console: Console) -> bool:
    return console.is_terminal and not console.no_color and console.color_system is not None


def _brackets(console: Console) -> tuple[str, str]:
    """Those that a row hardly has, if the encoding has them."""
    return next((pair for pair in _BRACKETS if wording.printable(pair[0], console.encoding) == pair[0]), _BRACKETS[-1])


def _text(text: str, console: Console, style: str = "") -> Text:
    return Text(wording.printable(text, console.encoding), style)
