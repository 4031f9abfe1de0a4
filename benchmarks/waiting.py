"""Waiting with a limit: who gives up says what it waited for, how long, and what it had seen by then.

In: what is awaited, in words, and how to look. Out: nothing, or `GaveUp`. A benchmark that waits without a limit looks like one
that works, and one that gives up without a word has to be run again to be understood.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.cluster.steps import Problem

T = TypeVar("T")
PAUSE = 0.5
"""Seconds between two looks."""
STILL = 60.0
"""Seconds in which something new is to be seen, whatever the limit of all of it."""


class Failed(Exception):
    """The benchmark cannot go on. The message says why, and where to look."""


class GaveUp(Failed):
    """Something was waited for, and did not come."""


def gave_up(what: str, seconds: float, seen: str) -> GaveUp:
    """In the same words everywhere."""
    return GaveUp(f"gave up after {seconds:.0f} s of waiting for {what}. Seen by then: {seen or 'nothing'}")


@dataclass(frozen=True)
class Seen:
    """One look: whether it is there, and what there is, in words."""

    done: bool
    words: str


async def until(what: str, look: Callable[[], Seen], *, seconds: float, still: float = STILL) -> None:
    """Look, in a thread, so that the clients here go on, until it is there. Raises GaveUp after `seconds`, or when there has been
    nothing new for `still` seconds."""
    began = changed = time.monotonic()
    last = Seen(False, "")
    while True:
        seen = await asyncio.to_thread(look)
        if seen.done:
            return
        now = time.monotonic()
        if seen != last:
            last, changed = seen, now
        if now - began > seconds:
            raise gave_up(what, now - began, seen.words)
        if now - changed > still:
            raise gave_up(what, now - began, f"{seen.words}; nothing new for {now - changed:.0f} s")
        await asyncio.sleep(PAUSE)


async def within(seconds: float, what: str, work: Awaitable[T], seen: Callable[[], str] = lambda: "") -> T:
    """What `work` returns. Raises GaveUp."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise gave_up(what, seconds, seen()) from None


@contextmanager
def limited(seconds: float, what: str, seen: Callable[[], str] = lambda: "") -> Iterator[None]:
    """The same for a block that waits in the main thread, wherever it does: the kernel's timer interrupts it. Not nested."""

    def give_up(*_: object) -> None:
        raise gave_up(what, seconds, seen())

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def told(benchmark: str) -> Iterator[None]:
    """What a person can mend ends this process with a line instead of a traceback."""
    said: list[str] = []
    try:
        yield
    except* (Failed, Problem) as failed:
        said = list(dict.fromkeys(map(str, _leaves(failed))))
    if said:
        sys.exit(f"{benchmark}: {' | '.join(said)}")


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def end_of(log: Path, lines: int = 20) -> str:
    """Where the log is, and its last lines."""
    if not log.exists():
        return f"{log} is not there"
    last = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"{log} ends:", *last] if last else [f"{log} is empty"])
