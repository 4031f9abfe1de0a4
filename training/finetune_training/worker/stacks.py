"""What the ranks of a run that does not move are doing.

In: on each rank, `listening` before it begins; on each machine, `collect` with the ranks that are there. Out: the stack of
every thread of every rank, and a sentence that says who holds up whom. The stacks are Python's own (faulthandler), written by a
signal's handler in C: it works while the interpreter waits in a collective for ever, and needs no right to look into
other processes.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SIGNAL = signal.SIGUSR1
_WITHIN, _LOOK = 5.0, 0.1
_STATES = {"T": "is stopped (SIGSTOP)", "t": "is stopped by a debugger", "Z": "has ended"}
_FRAME = re.compile(r'File "(.+?)", line (\d+) in (\S+)')
_TRAINS = "finetune_training/worker/worker.py"
"""The thread that trains has this in its stack: with Ray it is not the main one."""
_COLLECTIVES = ("distributed_c10d.py", "deepspeed/comm", "/gloo", "/nccl")
"""Where a rank is that waits for the others."""


@dataclass(frozen=True)
class Found:
    """Of one rank. `state`: the kernel's letter for what its process does. `stack`: empty when it did not answer."""

    rank: int
    state: str
    stack: str

    @property
    def frames(self) -> list[tuple[str, str, str]]:
        """(file, line, function) of the thread that trains, innermost first."""
        threads = re.split(r"^(?=(?:Current t|T)hread )", self.stack, flags=re.MULTILINE)
        return _FRAME.findall(next((each for each in threads if _TRAINS in each), threads[-1]))

    @property
    def waits(self) -> bool:
        """For other ranks."""
        return any(part in file for file, _, _ in self.frames[:12] for part in _COLLECTIVES)


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """This process writes its stacks into `path` whenever it is asked to."""
    with path.open("a", encoding="utf-8") as file:
        faulthandler.register(_SIGNAL, file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(_SIGNAL)


def collect(ranks: Mapping[int, tuple[int, Path]]) -> list[Found]:
    """Ask the processes of this machine: rank → (pid, the path that it listens with)."""
    before = {rank: _size(path) for rank, (_, path) in ranks.items()}
    for pid, _ in ranks.values():
        with suppress(ProcessLookupError):
            os.kill(pid, _SIGNAL)
    return [_found(rank, pid, path, before[rank]) for rank, (pid, path) in ranks.items()]


def end(pids: list[int]) -> None:
    """These processes of this machine, at once: one that hangs heeds nothing else."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def culprit(found: list[Found]) -> str:
    """Who holds up the run, in a sentence; empty when that cannot be told."""
    for each in found:
        if each.state in _STATES:
            return f"Rank {each.rank} {_STATES[each.state]}."
    silent = [each for each in found if not each.stack]
    if silent:
        return f"Rank {silent[0].rank} does not answer."
    busy = [each for each in found if not each.waits]
    if busy and len(busy) < len(found):
        file, line, function = busy[0].frames[0] if busy[0].frames else ("?", "?", "?")
        return f"Rank {busy[0].rank} is in {function} ({Path(file).name}, line {line}); the others wait for it."
    return ""


def told(found: list[Found]) -> str:
    """All of it, as a file for people."""
    parts = [f"── rank {each.rank}, state {each.state} ──\n{each.stack or '(no answer)'}\n" for each in found]
    return "\n".join(parts)


def _found(rank: int, pid: int, path: Path, before: int) -> Found:
    until = time.monotonic() + _WITHIN
    size = before
    while time.monotonic() < until:  # a file that another process writes gives no event
        seen, size = size, _size(path)
        if size > before and size == seen:
            break
        if _state(pid) in _STATES:
            break
        time.sleep(_LOOK)
    text = path.read_bytes()[before:].decode(errors="replace") if path.exists() else ""
    return Found(rank, _state(pid), text.strip())


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
