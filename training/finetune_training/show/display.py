"""A run's progress as its user sees it.

In: progress events. Out: on a terminal one live line, and above it a quiet line for what is worth keeping; anywhere
else (CI, `kubectl logs`, a pipe) plain lines without control characters, and not too many. Text that came from elsewhere
is never read as markup.
"""

from __future__ import annotations

import time
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from finetune_training.events import wording
from finetune_training.events.progress import (
    CheckpointSaved,
    Evaluated,
    Event,
    Inspected,
    MemoryUse,
    Prepared,
    Restarted,
    Resumed,
    Stage,
    StageStarted,
    Step,
    Warned,
)

_SECONDS_BETWEEN_LINES = 10.0
_LINES_PER_RUN = 20
_NARROWEST_BAR, _WIDEST_BAR = 8, 40
_STAGE_WIDTH = 10
"""The longest stage is "Evaluating"."""


class _Display:
    """What both kinds have: use it as `with progress_on(console) as sink:`."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""

    def _text(self, text: str, style: str = "") -> Text:
        return Text(wording.printable(text, self._console.encoding), style)


class LiveProgress(_Display):
    """Sink for a terminal: at the bottom a spinner with the stage, or a bar with the steps."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._stage: StageStarted | None = None
        self._step: Step | None = None
        self._spinner = Spinner("dots" if console.encoding.startswith("utf") else "line", style="cyan")
        self._live = Live(console=console, transient=True, refresh_per_second=8, get_renderable=self._line)

    def show(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._go_to(event)
            case Step():
                is_first, self._step = self._step is None, event
                if is_first:  # the bar appears at once; later steps wait for the next frame
                    self._live.refresh()
            case MemoryUse() if not event.change:
                pass
            case Warned() | Restarted() | MemoryUse():
                self._say("! ", _describe(event).removeprefix("Warning: "), "yellow")
            case _:
                self._say("  ", _describe(event), "dim")

    def close(self) -> None:
        self._live.stop()

    def _say(self, sign: str, text: str, style: str) -> None:
        room = max(1, self._console.width - len(sign))
        wrapped = self._text(text, style).wrap(self._console, room)
        self._console.print(Text(sign, style) + Text("\n" + " " * len(sign)).join(wrapped), soft_wrap=True)

    def _go_to(self, stage: StageStarted) -> None:
        before = self._stage
        if before and before.stage is stage.stage:  # it goes on, and has more to say
            self._stage = StageStarted(stage.stage, stage.note, before.time)
            return
        closing = before and self._closing_line(before, stage)
        is_end = stage.stage in (Stage.SUCCEEDED, Stage.FAILED)
        self._stage, self._step = None if is_end else stage, None
        if not is_end:
            self._live.start()
        self._live.refresh()  # what is printed now must not draw the old stage again
        if closing:
            self._console.print(closing)
        if is_end:
            self.close()

    def _closing_line(self, ended: StageStarted, following: StageStarted) -> Text:
        mark = self._text("✗ ", "red") if following.stage is Stage.FAILED else self._text("✓ ", "green")
        return mark + self._stage_text(ended, until=following.time, note=self._closing_note(ended))

    def _closing_note(self, stage: StageStarted) -> str:
        step = self._step
        if step is None:
            return stage.note
        if step.step == step.total_steps:
            return wording.times(step.step, "step")
        return f"step {step.step:,} of {step.total_steps:,}"

    def _stage_text(self, stage: StageStarted, *, until: float, note: str) -> Text:
        elapsed = wording.clock(until - stage.time)
        return self._text(f"{stage.stage:<{_STAGE_WIDTH}}") + self._text(f" {elapsed:>6}  {note}".rstrip(), "dim")

    def _line(self) -> RenderableType:
        stage, step, room = self._stage, self._step, self._console.width - 3
        if stage is None:
            return Text("")
        if step and stage.stage is Stage.TRAINING:
            cells = _bar(step, room)
        else:
            cells = [self._stage_text(stage, until=time.time(), note=stage.note.partition("\n")[0])]
        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in range(1 + len(cells)):
            # Never "ellipsis", which is the default: not every encoding has that sign.
            line.add_column(no_wrap=True, overflow="crop")
        line.add_row(self._spinner, *cells)
        return line


class PlainProgress(_Display):
    """Sink for anything but a terminal: a line for each event; of the steps, the first, the last, and one each ten
    seconds or each twentieth of the run."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._shown: Step | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, MemoryUse) and not event.change:
            return
        if isinstance(event, Step):
            if not self._is_due(event):
                return
            self._shown = event
        line = " ".join(_describe(event).split())
        line = f"{datetime.fromtimestamp(event.time):%H:%M:%S} {line}\n"
        self._console.file.write(wording.printable(line, self._console.encoding))
        self._console.file.flush()

    def _is_due(self, step: Step) -> bool:
        last = self._shown
        return (
            last is None
            or step.step <= last.step
            or step.step >= step.total_steps
            or step.time - last.time >= _SECONDS_BETWEEN_LINES
            or step.step - last.step >= step.total_steps / _LINES_PER_RUN
        )


def progress_on(console: Console) -> LiveProgress | PlainProgress:
    """The sink that suits `console`."""
    return LiveProgress(console) if console.is_terminal and not console.is_dumb_terminal else PlainProgress(console)


def _describe(event: Event) -> str:
    match event:
        case StageStarted():
            return f"{event.stage}: {event.note}" if event.note else event.stage
        case Inspected():
            return "\n".join(event.sources)
        case Prepared():
            return _data(event)
        case Step():
            numbers = f"loss {wording.loss(event.loss)}, {wording.count(event.tokens_per_second)} tokens/s"
            return f"Step {event.step:,}/{event.total_steps:,}: {numbers}, ETA {wording.clock(event.eta_seconds)}"
        case Evaluated():
            who = "Base model" if event.baseline else f"Step {event.step:,}"
            return f"{who}: held-out loss {wording.loss(event.loss)}, perplexity {wording.perplexity(event.perplexity)}"
        case CheckpointSaved():
            return f"Step {event.step:,}: checkpoint saved, {wording.size(event.bytes)}"
        case Resumed():
            return f"Resumed from step {event.step:,}: {event.uri}"
        case Restarted():
            return f"Warning: {event.why} The ranks start again (number {event.restart})."
        case MemoryUse():
            return f"Warning: memory has run out; from now on {event.change}"
        case Warned():
            return f"Warning: {event.message}"


def _data(event: Prepared) -> str:
    samples = wording.times(event.samples, "packed sample" if event.packed else "sample")
    room = f"{'' if event.packed else 'at most '}{wording.times(event.max_length, 'token')}"
    full = f"{wording.share(event.useful_token_ratio)} full"
    held_out = f", {event.held_out:,} held out" if event.held_out else ""
    return f"Data: {wording.times(event.rows, 'row')} → {samples} of {room}, {full}{held_out}"


def _bar(step: Step, room: int) -> list[RenderableType]:
    """Stage, bar and numbers, in at most `room` columns: what matters least goes first."""
    total = f"{step.total_steps:,}"
    count, loss = f"{step.step:>{len(total)},}/{total}", f"loss {wording.loss(step.loss)}"
    speed, eta = f"{wording.count(step.tokens_per_second)} tokens/s", f"ETA {wording.clock(step.eta_seconds)}"
    name = f"{Stage.TRAINING:<{_STAGE_WIDTH}}"
    for front, numbers in (
        (name, (count, loss, speed, eta)),
        (name, (count, loss, eta)),
        (name, (count, loss)),
        ("", (count, loss)),
        ("", (count,)),
    ):
        words: list[RenderableType] = [Text(front)] if front else []
        text = Text("  ".join(numbers))
        width = room - len(text) - (len(front) + 1 if front else 0) - 1
        if width >= _NARROWEST_BAR:
            bar = ProgressBar(step.total_steps, step.step, min(width, _WIDEST_BAR), complete_style="cyan")
            return [*words, bar, text]
    return [Text(count)]
