"""An inspection on a terminal, in a pipe, without colours, in a poor encoding."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from finetune_training.contract.dataset import Format, RowKind
from finetune_training.contract.failure import user_error
from finetune_training.events.specimen import Piece, Specimen
from finetune_training.inspection.inspection import Inspection
from finetune_training.inspection.terminal import show_inspection, show_rows
from finetune_training.preflight.finding import doubtful, good, wrong
from finetune_training.sources.overview import Overview

ROW = Specimen(
    "rows.jsonl:1",
    "00000000000000ff",
    "Messages",
    9,
    4,
    (
        Piece("<s>", learnt=False, special=True, ids=(1,)),
        Piece("[bold]ask[/bold]\x1b[31m\n", learnt=False, ids=(2,)),
        Piece("say", learnt=True, ids=(3,)),
        Piece("</s>", learnt=True, special=True, ids=(4,)),
        Piece("\n", learnt=False, ids=(5,)),
    ),
)
SOURCE = Overview(
    "spec.dataset.train[0]", False, 37, 5_400_000, (Format.JSONL,), RowKind.MESSAGES, ("messages", "id"), ("messages",),
    ("id",), "", "data/a.jsonl",
)  # fmt: skip
SEEN = Inspection(
    (SOURCE,),
    (ROW,),
    (good("vocabulary", "fits."), doubtful("columns", "some are ignored.", ""), wrong("rows", user_error("R", "Bad."))),
)


def console(*, terminal: bool, colours: bool = False, encoding: str = "utf-8", width: int = 80) -> Console:
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding=encoding),
        force_terminal=terminal,
        width=width,
        color_system="standard" if colours else None,
        highlight=False,
        _environ={},
    )


def written(to: Console) -> str:
    file = to.file
    assert isinstance(file, io.TextIOWrapper)
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode(file.encoding)


def test_without_colours_what_is_learnt_stands_between_brackets_and_the_legend_says_so() -> None:
    pipe = console(terminal=False)
    show_inspection(SEEN, pipe)
    text = written(pipe)
    assert "⟦learnt⟧; what stands outside is shown to the model and not learnt." in text
    assert "    <s>[bold]ask[/bold][31m\n    ⟦say</s>⟧\n" in text
    assert "spec.dataset.train[0]  37 files, 5.4 MB, JSONL; rows are Messages" in text
    assert "columns: messages; ignored: id" in text
    assert [line.split()[0] for line in text.split("Checks\n")[1].splitlines()] == ["OK", "Warning", "Error"]
    assert "\x1b" not in text


def test_with_colours_there_are_no_brackets() -> None:
    screen = console(terminal=True, colours=True)
    show_rows([ROW], screen)
    text = written(screen)
    assert "⟦" not in text
    assert "\x1b[32msay\x1b[0m\x1b[1;32m</s>\x1b[0m" in text
    assert "[31m\x1b" in text  # what the row wants to do to the terminal is only text
    assert "\x1b[31m" not in text


@pytest.mark.parametrize(("encoding", "begins"), [("ascii", "[[say"), ("latin-1", "[[say"), ("utf-8", "⟦say")])
def test_brackets_are_those_that_the_encoding_has(encoding: str, begins: str) -> None:
    pipe = console(terminal=False, encoding=encoding)
    show_rows([ROW], pipe)
    assert begins in written(pipe)


def test_a_long_row_is_shortened_unless_it_was_asked_for() -> None:
    long = Specimen("a:1", "", "Text", 9, 9, (Piece("word " * 2000, learnt=True, ids=(1,)),))
    short, whole = console(terminal=False), console(terminal=False)
    show_rows([long], short)
    show_rows([long], whole, whole=True)
    assert "characters …" in written(short)
    assert "word " * 2000 in written(whole)


def test_nothing_is_wider_than_a_terminal() -> None:
    narrow = console(terminal=True, width=40)
    show_inspection(SEEN, narrow)
    assert max(map(len, written(narrow).splitlines())) <= 40
