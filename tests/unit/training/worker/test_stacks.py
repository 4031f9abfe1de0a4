"""Real processes that hang in the ways in which ranks do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_training.worker.stacks import Found, collect, culprit, end, told

PROGRAM = """
import sys, threading
from pathlib import Path
from finetune_training.worker.stacks import listening

def waits_for_ever():
    print("ready", flush=True)
    threading.Event().wait()

with listening(Path(sys.argv[1])):
    waits_for_ever()
"""


@contextmanager
def process(path: Path) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True)
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def test_a_process_that_waits_tells_where(tmp_path: Path) -> None:
    path = tmp_path / "stacks-0.txt"
    with process(path) as running:
        first = collect({0: (running.pid, path)})[0]
        again = collect({0: (running.pid, path)})[0]
    assert "in waits_for_ever" in first.stack
    assert "waits_for_ever" in [function for _, _, function in first.frames]
    assert again.stack.count("most recent call first") == 1, "each answer is the last one only"
    assert culprit([first]) == ""


def test_a_process_that_is_stopped_cannot_tell_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stacks-1.txt"
    with process(path) as running:
        os.kill(running.pid, signal.SIGSTOP)
        found = collect({1: (running.pid, path)})
        assert (found[0].state, found[0].stack) == ("T", "")
        assert culprit(found) == "Rank 1 is stopped (SIGSTOP)."
        assert "(no answer)" in told(found)
        end([running.pid])
        assert running.wait(10) == -signal.SIGKILL


def test_a_process_that_is_gone_is_named(tmp_path: Path) -> None:
    with process(tmp_path / "s") as running:
        end([running.pid])
        running.wait(10)
        end([running.pid])  # nothing to do
        assert culprit(collect({3: (running.pid, tmp_path / "s")})) == "Rank 3 has ended."


def stack(*frames: str) -> str:
    """As faulthandler writes it: the thread that trains is not the one that got the signal."""
    other = 'Current thread 0x01 (most recent call first):\n  File "/ray/core.py", line 5 in main_loop\n'
    lines = [*frames, 'File "/x/finetune_training/worker/worker.py", line 120 in _train']
    return (
        other.replace("Current thread", "Thread")
        + "Thread 0x02 (most recent call first):\n"
        + "".join(f"  {each}\n" for each in lines)
        + other
    )


WAITS = 'File "/x/torch/distributed/distributed_c10d.py", line 2850 in all_reduce'
BUSY = 'File "/home/me/transform.py", line 12 in clean'


@pytest.mark.parametrize(
    ("stacks", "said"),
    [
        ((WAITS, BUSY), "Rank 1 is in clean (transform.py, line 12); the others wait for it."),
        ((BUSY, WAITS), "Rank 0 is in clean (transform.py, line 12); the others wait for it."),
        ((WAITS, WAITS), ""),
        ((BUSY, BUSY), ""),
    ],
)
def test_who_is_not_in_a_collective_holds_up_the_others(stacks: tuple[str, ...], said: str) -> None:
    assert culprit([Found(rank, "S", stack(each)) for rank, each in enumerate(stacks)]) == said
