"""What a person reads while a cluster comes up: one line for each step with its time, and problems in plain words."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Problem(Exception):
    """Something that the person at the terminal can mend: the message says what is wrong and what to do."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Time the block and print `what` with its seconds."""
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"  {what:<58} failed after {time.monotonic() - began:.1f} s", flush=True)
        raise
    print(f"  {what:<58} {time.monotonic() - began:6.1f} s", flush=True)


def run(
    *command: str | Path, stdin: str | None = None, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a program and return what it printed. Raises Problem with what it said, also if it is not there."""
    words = [str(each) for each in command]
    try:
        done = subprocess.run(words, input=stdin, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Problem(f"{words[0]} is missing on this machine") from None
    if done.returncode != 0:
        raise Problem(f"`{shlex.join(words)}` failed:\n{(done.stderr.strip() or done.stdout.strip())[-3000:]}")
    return done.stdout


def until(deadline_seconds: float) -> Iterator[float]:
    """Yield the seconds that are left, again and again with a short pause, until none are: for what has no event to wait for."""
    deadline = time.monotonic() + deadline_seconds
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(0.1)
