"""What a person reads while a cluster comes up: one line for each step with its time, and problems in plain words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


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


def until(deadline_seconds: float) -> Iterator[float]:
    """Yield the seconds that are left, again and again with a short pause, until none are: for what has no event to wait for."""
    deadline = time.monotonic() + deadline_seconds
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(0.1)
