"""How a run ends, on the terminal: summary and failure, at any width, in any encoding."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from finetune_training.contract.failure import Failure, FailureClass
from finetune_training.events.result import Evaluations, Sample
from finetune_training.show.terminal import show_failure, summary
from tests.finished_run import result, scores

FAILURE = Failure(
    FailureClass.USER,
    "InvalidJob",
    "job.yaml:12: spec.training.learningrate: unknown field; did you mean learningRate?\njob.yaml:14: [bold]too long[/bold]",
    "`finetune schema` prints all fields; docs/fields.md explains them.",
    "Row 17:\n  {}",
    3,
)


def console(*, width: int = 80, encoding: str = "utf-8", terminal: bool = True, colors: bool = False) -> Console:
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding=encoding),
        force_terminal=terminal,
        width=width,
        color_system="standard" if colors else None,
        _environ={},
    )


def written(to: Console) -> str:
    to.file.seek(0)
    return to.file.read()


def summarised(to: Console | None = None, **different: Any) -> str:
    to = to or console()
    to.print(
        summary(
            result(**different),
            report="runs/s/result/report.html",
            result_uri="runs/my run/result",
            command="finetune predict job.yaml Hello",
        )
    )
    return "\n".join(line.rstrip() for line in written(to).splitlines())


def failed(to: Console, failure: Failure = FAILURE, log: str | None = "runs/s/attempts/1/driver.log") -> str:
    show_failure(failure, log=log, console=to)
    return written(to)


def test_the_summary_says_how_good_what_it_says_and_where_it_is() -> None:
    assert summarised() == (
        "\n"
        "shakespeare: 30 steps in 2 min 54 s\n"
        "\n"
        "                base   tuned   difference\n"
        "held-out loss   4.07    3.81        −0.26\n"
        "perplexity      58.6    45.2      −22.9 %\n"
        "\n"
        "Prompt  To be, or not to be\n"
        "Base    , that is the question.\n"
        "Tuned   ,\n"
        "        I am not so much of a man.\n"
        "\n"
        "Result  runs/my run/result\n"
        "Report  runs/s/result/report.html\n"
        "Next    finetune predict job.yaml Hello"
    )


def test_the_summary_leaves_out_what_there_is_not() -> None:
    alone = summarised(evaluation=Evaluations(tuned=scores(3.8106)), samples=[Sample(prompt="p", base=None, tuned="t")])
    assert "                tuned\nheld-out loss    3.81\nperplexity       45.2\n" in alone
    assert "base" not in alone.lower()
    nothing = summarised(evaluation=Evaluations(), samples=[])
    assert "held-out" not in nothing
    assert "Prompt" not in nothing


def test_long_answers_are_cut_to_a_few_lines() -> None:
    shown = summarised(samples=[Sample(prompt="p" * 5000, base="word " * 5000, tuned="a\n\nb\nc\nd\ne\nf")])
    lines = shown[shown.index("Prompt") : shown.index("\n\nResult")].splitlines()
    assert len(lines) == 12
    assert [line[-1] for line in lines[3::4]] == ["…", "…", "…"]
    assert max(map(len, lines)) <= 80
    assert lines[-4:] == ["Tuned   a", "        b", "        c", "        d …"]


@pytest.mark.parametrize(("tuned", "color"), [(3.8, 32), (4.2, 33)])
def test_better_is_green_and_worse_is_yellow(tuned: float, color: int) -> None:
    shown = summarised(console(colors=True), evaluation=Evaluations(baseline=scores(4.07), tuned=scores(tuned)))
    change = f"{tuned - 4.07:+.2f}".replace("-", "−")
    assert re.search(rf"\x1b\[{color}m *{re.escape(change)}\x1b", shown)


def test_a_failure_says_who_what_where_and_what_to_do() -> None:
    assert failed(console()) == (
        "User · InvalidJob · rank 3\n"
        "  job.yaml:12: spec.training.learningrate: unknown field; did you mean\n"
        "  learningRate?\n"
        "  job.yaml:14: [bold]too long[/bold]\n"
        "→ `finetune schema` prints all fields; docs/fields.md explains them.\n"
        "  Row 17:\n"
        "    {}\n"
        "  Log: runs/s/attempts/1/driver.log\n"
    )


def test_a_failure_with_nothing_more_to_say_says_no_more() -> None:
    assert failed(console(), Failure(FailureClass.DATA, "EmptyFile", "x.jsonl is empty."), None) == (
        "Data · EmptyFile\n  x.jsonl is empty.\n"
    )


def test_a_class_that_is_its_own_reason_is_named_once() -> None:
    assert failed(console(), Failure(FailureClass.OUT_OF_MEMORY, "OutOfMemory", "m"), None).startswith("OutOfMemory\n")


@pytest.mark.parametrize(("cls", "color"), [(FailureClass.USER, "31"), (FailureClass.INTERRUPTED, "33")])
def test_a_failure_is_red_and_an_interruption_yellow(cls: FailureClass, color: str) -> None:
    shown = failed(console(colors=True), Failure(cls, "Reason", "message"))
    assert shown.startswith(f"\x1b[1;{color}m{cls} · Reason\x1b[0m\n")


def test_messages_are_whole_lines_in_a_log_and_paths_are_everywhere() -> None:
    log, message = "runs/" + "a" * 90 + "/driver.log", "word " * 40 + "end"
    failure = Failure(FailureClass.DATA, "BadRow", message)
    assert failed(console(terminal=False), failure, log) == f"Data · BadRow\n  {message}\n  Log: {log}\n"
    assert f"  Log: {log}\n" in failed(console(), failure, log)


def test_poor_encodings_get_other_signs() -> None:
    shown = failed(console(encoding="ascii"))
    assert shown.startswith("User - InvalidJob - rank 3\n   job.yaml:12")
    assert "\n-> `finetune schema`" in shown
    assert "−" not in summarised(console(encoding="latin-1"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 20, 60])
@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_crashes_on_poor_terminals(width: int, encoding: str, terminal: bool) -> None:
    hostile = "[/] [bold 日本語 \x1b]0;title\x07\x1b[2J\r\n\t\ud800" + "x" * 100
    sample = Sample(prompt="[/red] 日本 \x1b[2J", base="", tuned="→" * 50)
    worst = Evaluations(baseline=scores(math.nan), tuned=scores(math.nan))
    for to in (console(width=width, encoding=encoding, terminal=terminal) for _ in range(2)):
        shown = failed(to, Failure(FailureClass.UNKNOWN, hostile, hostile, hostile, hostile, 0), hostile)
        assert not {"\x1b", "\x07", "\r"} & set(shown)
    to = console(width=width, encoding=encoding, terminal=terminal)
    assert "\x1b" not in summarised(to, samples=[sample], evaluation=worst)


def test_a_process_with_a_poor_locale_prints_its_failure_to_stderr() -> None:
    script = (
        "from finetune_training.contract.failure import Failure, FailureClass\n"
        "from finetune_training.show.terminal import open_console, show_failure\n"
        "open_console().print('日本')\n"
        "show_failure(Failure(FailureClass.USER, 'R', 'naïve', 'do → this'), log=None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env={"PYTHONIOENCODING": "ascii"}, check=True
    )
    assert done.stdout == b"??\n"
    assert done.stderr == b"User - R\n   na?ve\n-> do -> this\n"
