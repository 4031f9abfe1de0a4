"""Progress: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from finetune_training.events.progress import Event, Inspected, Prepared, Resumed, Stage, StageStarted, Step, Warned
from finetune_training.show.display import LiveProgress, PlainProgress, progress_on
from tests.finished_run import STARTED, evaluated, saved, step

TRAINING = StageStarted(Stage.TRAINING, time=STARTED)


def plain(*events: Event) -> list[str]:
    """What the events look like in a log, without the time of day."""
    file = io.StringIO()
    with progress_on(Console(file=file)) as sink:
        assert isinstance(sink, PlainProgress)
        for event in events:
            sink.show(event)
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in file.getvalue().splitlines()]


def live(*events: Event, width: int = 80, encoding: str = "utf-8") -> str:
    """All that was written to a terminal of that width, without colours and cursor movements."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, force_terminal=True, width=width, color_system=None, _environ={})
    with progress_on(console) as sink:
        assert isinstance(sink, LiveProgress)
        for event in events:
            sink.show(event)
    file.seek(0)
    return re.sub(r"\x1b\[[?\d]*[A-Za-z]|\r", "", file.read())


def test_a_log_has_one_line_for_each_thing_that_happens() -> None:
    assert plain(
        StageStarted(Stage.PREPARING, "37 rows"),
        Inspected(("train[0]: 1 file.", "train[1]: 2 files.")),
        Prepared(1_234, 1, 0, 64, True, 0.9844),
        Prepared(40, 38, 2, 64, False, 0.4),
        Resumed(10, "runs/s/checkpoints/step-00000010-a1"),
        TRAINING,
        step(11, loss=3.94),
        evaluated(0, 4.0712, baseline=True),
        evaluated(11, 3.8106),
        saved(11),
        Warned("two\nlines [red]\x1b[31m"),
        StageStarted(Stage.SUCCEEDED),
    ) == [
        "Preparing: 37 rows",
        "train[0]: 1 file. train[1]: 2 files.",
        "Data: 1,234 rows → 1 packed sample of 64 tokens, 98.4 % full",
        "Data: 40 rows → 38 samples of at most 64 tokens, 40 % full, 2 held out",
        "Resumed from step 10: runs/s/checkpoints/step-00000010-a1",
        "Training",
        "Step 11/30: loss 3.94, 1,236 tokens/s, ETA 1:03",
        "Base model: held-out loss 4.07, perplexity 58.6",
        "Step 11: held-out loss 3.81, perplexity 45.2",
        "Step 11: checkpoint saved, 29.4 MB",
        "Warning: two lines [red][31m",
        "Succeeded",
    ]


def steps_shown(*steps: Step) -> list[int]:
    return [int(line.split()[1].split("/")[0].replace(",", "")) for line in plain(*steps)]


def test_fast_steps_are_shown_each_twentieth_of_the_run() -> None:
    steps = [step(number, 1000, time=STARTED + number / 100) for number in range(1, 1001)]
    assert steps_shown(*steps) == [*range(1, 1000, 50), 1000]


def test_slow_steps_are_shown_each_ten_seconds() -> None:
    steps = [step(number, 100_000, time=STARTED + 3 * number) for number in range(1, 14)]
    assert steps_shown(*steps) == [1, 5, 9, 13]


def test_steps_that_come_again_after_a_resume_are_shown() -> None:
    steps = [step(number, 1000, time=STARTED + number / 100) for number in (40, 41, 40, 41)]
    assert steps_shown(*steps) == [40, 40]


def test_a_pipe_gets_each_line_at_once_and_no_control_character() -> None:
    script = (
        "import sys; from rich.console import Console\n"
        "from finetune_training.show.display import progress_on\n"
        "from finetune_training.events.progress import Stage, StageStarted\n"
        "sink = progress_on(Console()); sink.show(StageStarted(Stage.PREPARING, 'naïve → ünits'))\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}
    ) as process:
        assert process.stdout
        line = process.stdout.readline()  # the process is still waiting for its input
        assert process.poll() is None
        rest, _ = process.communicate()
    assert re.fullmatch(rb"\d\d:\d\d:\d\d Preparing: na\?ve -> \?nits\n", line)
    assert rest == b""


def test_a_terminal_gets_a_bar_and_quiet_lines_above_it() -> None:
    shown = live(
        StageStarted(Stage.PREPARING, "37 rows", STARTED - 12),
        TRAINING,
        step(12, loss=3.94),
        evaluated(12, 3.8106),
        StageStarted(Stage.EVALUATING, time=STARTED + 102),
        StageStarted(Stage.SUCCEEDED, time=STARTED + 111),
    )
    assert "✓ Preparing    0:12  37 rows\n" in shown
    assert "  Step 12: held-out loss 3.81, perplexity 45.2\n" in shown
    assert re.search(r"Training   ━+[╸╺]? +12/30  loss 3.94  1,236 tokens/s  ETA 0:59", shown)
    assert "✓ Training     1:42  step 12 of 30\n" in shown
    assert shown.rstrip().endswith("✓ Evaluating   0:09")


def test_the_stage_that_failed_is_crossed_out() -> None:
    assert "✗ Training     0:30\n" in live(TRAINING, StageStarted(Stage.FAILED, time=STARTED + 30))


def test_a_stage_that_has_more_to_say_goes_on() -> None:
    first = StageStarted(Stage.PREPARING, "reading", STARTED)
    shown = live(
        first, StageStarted(Stage.PREPARING, "37 rows", STARTED + 5), StageStarted(Stage.TRAINING, time=STARTED + 9)
    )
    assert shown.count("✓") == 1
    assert "✓ Preparing    0:09  37 rows\n" in shown


@pytest.mark.parametrize(
    ("width", "numbers"),
    [
        (80, "12/30  loss 3.94  1,236 tokens/s  ETA 0:59"),
        (60, "12/30  loss 3.94  ETA 0:59"),
        (24, "12/30"),
        (10, "12/30"),
    ],
)
def test_on_narrow_terminals_what_matters_least_goes_first(width: int, numbers: str) -> None:
    shown = live(TRAINING, step(12, loss=3.94), saved(12), width=width)
    assert f" {numbers}\n" in re.sub(r" +\n", "\n", shown)
    assert max(map(len, shown.splitlines())) <= 2 * width  # the live line is drawn over itself


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("width", [1, 2, 5, 33])
def test_nothing_crashes_on_poor_terminals(width: int, encoding: str) -> None:
    shown = live(
        StageStarted(Stage.PREPARING, "日本 → plays"),
        Warned("a [bold]long[/] 日本語 warning [/nothing] \x1b[2J" * 3),
        TRAINING,
        step(1, 100_000, loss=float("nan"), eta_seconds=float("inf")),
        saved(1),
        StageStarted(Stage.FAILED),
        width=width,
        encoding=encoding,
    )
    assert "\x1b" not in shown


def test_markup_in_warnings_is_text() -> None:
    assert "! see [link=http://evil.example]here[/link]\n" in live(Warned("see [link=http://evil.example]here[/link]"))


def test_the_terminal_is_given_back_when_the_run_is_interrupted() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, _environ={})
    with suppress(KeyboardInterrupt), progress_on(console) as sink:
        sink.show(TRAINING)
        assert "\x1b[?25h" not in file.getvalue()  # the cursor is hidden
        raise KeyboardInterrupt
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")  # and is back
