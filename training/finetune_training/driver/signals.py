"""SIGTERM and Ctrl-C, as an attempt takes them.

In: signals, at any time and any number. Out: `Terminated` or KeyboardInterrupt in the main thread; while ranks train, a message
instead, so that a checkpoint is saved. A person who presses Ctrl-C twice wants the end at once. A machine that says SIGTERM twice
means nothing by it: the kubelet, Ray and whoever deletes the pods each say it in their own time, and what is being saved must not
be cut off by that. What the process has heard of SIGTERM is in its handler, and nowhere else.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_training.contract.failure import Terminated


def end_at_sigterm() -> None:
    """From now on the first SIGTERM ends this process as Ctrl-C does, with Ray ended too."""
    signal.signal(signal.SIGTERM, _end)


def told_to_end() -> bool:
    """Whether there was a SIGTERM since then."""
    return signal.getsignal(signal.SIGTERM) is _told_already


@contextmanager
def signals_to(tell: Callable[[int], object]) -> Iterator[None]:
    """Meanwhile the first SIGTERM and the first Ctrl-C are told, each with its number. The second Ctrl-C ends the process."""

    def interrupted(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell(number)

    def told(number: int, _: object) -> None:
        _heed_no_more()
        tell(number)

    before = signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if not told_to_end():
            end_at_sigterm()


def _end(*_: object) -> None:
    _heed_no_more()
    raise Terminated("this process was told to end (SIGTERM)")


def _heed_no_more() -> None:
    """Not at the interpreter's own end either, when it takes handlers away: the exit code would be lost."""
    signal.signal(signal.SIGTERM, _told_already)
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


def _told_already(*_: object) -> None:
    """Nothing: the process ends as it is."""
