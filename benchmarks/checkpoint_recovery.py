"""From SIGKILL of the only rank to the first new step.

In: an empty folder. Out: seconds of each part, by the events in the run's own metrics. Their names are those of the classes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.waiting import Failed, end_of, gave_up
from finetune_training.driver.attempt import METRICS
from finetune_training.events.progress import CheckpointSaved, Event, Restarted, Resumed, StageStarted, Step
from tests.cli import command, environment, write_job, write_rows
from tests.tiny import write_model

Record = dict[str, Any]
_PAUSE = 0.05
_SECONDS = 300.0
"""The most for the run to start and save, for the rank to be replaced, and for the run to end."""


def recovery(folder: Path) -> dict[str, float]:
    """Of each part, and in total. Raises GaveUp."""
    model, rows = write_model(folder / "model", "llama"), write_rows(folder / "rows.jsonl")
    job = write_job(
        folder, model=model, data=rows, training={"maxSteps": 2000}, checkpoint={"uri": str(folder), "everySteps": 2}
    )
    with _started(folder, job) as run:
        run.until("the first checkpoint", lambda events: _at(events, CheckpointSaved))
        killed = time.time()
        run.rank().kill()
        run.until("a step after the rank was killed", lambda events: _step_after(_since(killed, events)))
        return _parts(killed, _since(killed, run.events()))


def _parts(killed: float, events: list[Record]) -> dict[str, float]:
    """The first word that something is wrong is that a stage begins; the last one before the run goes on is of the new rank."""
    resumed = _at(events, Resumed)
    before = events[:resumed]
    marks = {
        "the loss is noticed": before[_at(before, StageStarted)],
        "a machine is there, a turn is claimed": before[_at(before, Restarted)],
        "process start": before[-1 - _at(before[::-1], StageStarted)],
        "model and checkpoint": events[resumed],
        "first step": events[_step_after(events)],
    }
    parts, last = {}, killed
    for name, event in marks.items():
        parts[name], last = event["time"] - last, event["time"]
    return parts | {"total": last - killed}


def _at(events: list[Record], kind: type[Event]) -> int:
    """Where the first event of this kind is. Raises ValueError: there is none."""
    return [event["event"] for event in events].index(kind.__name__)


def _step_after(events: list[Record]) -> int:
    """Where the first step is since the run goes on. Raises ValueError: there is none."""
    resumed = _at(events, Resumed)
    return resumed + _at(events[resumed:], Step)


def _since(moment: float, events: list[Record]) -> list[Record]:
    return [event for event in events if event["time"] > moment]


class _Run:
    """`finetune run`, with what it prints in a log."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
        self._process, self._folder, self._log = process, folder, log

    def events(self) -> list[Record]:
        """Those that are written to their end."""
        files = sorted(self._folder.rglob(METRICS))
        lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in lines]

    def until(self, what: str, look: Callable[[list[Record]], int]) -> None:
        """Return when `look` finds it. Raises GaveUp, and Failed when the run has ended."""
        deadline = time.monotonic() + _SECONDS
        while True:
            ended, events = self._process.poll(), self.events()
            try:
                look(events)
                return
            except ValueError:  # not yet
                last = events[-1]["event"] if events else "no event"
            if ended is not None:
                raise Failed(f"the run has ended with {ended} before {what}; last: {last}. {end_of(self._log)}")
            if time.monotonic() > deadline:
                raise gave_up(what, _SECONDS, f"{len(events)} events, last: {last}. {end_of(self._log)}")
            time.sleep(_PAUSE)

    def rank(self) -> psutil.Process:
        """The process of the only rank. Raises Failed."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        named = {each: _name(each) for each in children}
        for process, name in named.items():
            if "RayTrainWorker" in name:
                return process
        raise Failed(f"no process of the run is called RayTrainWorker: {sorted(named.values())}")

    def end(self) -> None:
        """As Ctrl-C does. Raises GaveUp."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise gave_up("the run to end after SIGINT", _SECONDS, end_of(self._log)) from None


@contextmanager
def _started(folder: Path, job: Path) -> Iterator[_Run]:
    """Until the block ends."""
    log = folder / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("run", str(job)), cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        run = _Run(process, folder, log)
        yield run
        run.end()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _name(process: psutil.Process) -> str:
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""
