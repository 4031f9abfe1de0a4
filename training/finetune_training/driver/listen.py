"""What the driver hears of its ranks, and what it makes of it.

In: messages, from the ranks and about them, in their order. Out: events for people, the wish to stop (once), and at the
end all that tells how it went (what that means is outcome.py's).
"""

from __future__ import annotations

import logging
import queue
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_training.contract.failure import Failure
from finetune_training.driver.preemption import DRIVER_TOLD, Taken, taken_away
from finetune_training.driver.watch import Watch
from finetune_training.events.progress import Away, Event, Report, StageStarted, Step, Trained, Warned
from finetune_training.worker.line import LAST, Place, RankFailed, RankPlaced, Said

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signalled:
    """The driver was sent SIGINT (the user wants the run to stop) or SIGTERM (the machine wants it to)."""

    number: int


@dataclass(frozen=True)
class Draining:
    """Nodes that will be gone soon."""

    nodes: frozenset[str]


@dataclass
class Heard:
    """What the driver has heard. `places`: of the ranks that have begun. `step`: the last. `taken`: what is being taken away.
    `stopped_by`: for what the ranks were asked to stop, None where the user asked. `hung`: what they were ended for when they did
    not move any more."""

    places: dict[int, Place] = field(default_factory=dict)
    failed: list[RankFailed] = field(default_factory=list)
    step: int = 0
    trained: Trained | None = None
    taken: Taken | None = None
    asked: bool = False
    stopped_by: Taken | None = None
    hung: Failure | None = None


Message = Said | Signalled | Draining


def listen(
    messages: queue.SimpleQueue[Message],
    on_event: Callable[[Event], None],
    *,
    stop: Callable[[], object],
    on_hang: Callable[[Heard, float], Failure],
) -> Heard:
    """Hear all messages, to the last. `stop` is called once, when the ranks should save a checkpoint and stop; `on_hang` once,
    when they have not moved for so many seconds: it ends them."""
    listener = _Listener(on_event, stop)
    heard, watch = listener.heard, listener.watch
    while True:
        try:
            message = messages.get(timeout=None if heard.hung else watch.left(time.monotonic()))
        except queue.Empty:
            heard.hung = on_hang(heard, watch.limit)
            continue
        if message is LAST:
            return heard
        listener.hear(message)


class _Listener:
    """Takes one message after the other."""

    def __init__(self, on_event: Callable[[Event], None], stop: Callable[[], object]) -> None:
        self.heard, self.watch = Heard(), Watch()
        self._on_event, self._stop = on_event, stop
        self._draining = frozenset[str]()

    def hear(self, message: Report | RankPlaced | RankFailed | Signalled | Draining) -> None:
        match message:
            case Signalled(signal.SIGINT):
                self._ask(None)
            case Signalled():
                self._ask(DRIVER_TOLD)
            case RankPlaced():
                self.heard.places[message.rank] = message.place
                self._look_around()
            case Draining():
                self._draining |= message.nodes
                self._look_around()
            case RankFailed():
                self.heard.failed.append(message)
                logger.error("Rank %s failed:\n%s", message.failure.rank, message.traceback)
            case Trained():
                self.heard.trained = message
            case StageStarted() | Step() | Away():
                self._move(message)
            case _:
                self._on_event(message)

    def _move(self, message: StageStarted | Step | Away) -> None:
        self.watch.hear(message, time.monotonic())
        if isinstance(message, Step):
            self.heard.step = message.step
        if not isinstance(message, Away):
            self._on_event(message)

    def _look_around(self) -> None:
        if taken := taken_away(self._draining, self.heard.places):
            self._ask(taken)

    def _ask(self, by: Taken | None) -> None:
        heard = self.heard
        if by and (heard.taken is None or heard.taken.ranks is not None):  # else all is taken away already
            heard.taken = by
        if not heard.asked:
            heard.asked, heard.stopped_by = True, by
            why = by.what if by else "Asked to stop. Once more stops at once."
            self._on_event(Warned(f"{why} A checkpoint is saved after this step."))
            self._stop()
