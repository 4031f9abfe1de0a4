"""What the driver hears of its ranks, and what it makes of it.

In: messages, from the ranks and about them, in their order. Out: events for people, the wish to stop (once), and at the
end who failed first.
"""

from __future__ import annotations

import logging
import queue
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from finetune_training.contract.failure import AGAIN, Failure, Reason, classify, infrastructure_error
from finetune_training.driver.preemption import DRIVER_TOLD, Taken, taken_away
from finetune_training.driver.watch import Watch
from finetune_training.events.progress import Away, Event, StageStarted, Step, Trained, Warned
from finetune_training.worker.line import Place, RankFailed, RankPlaced, Said

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
    """What the driver has heard. `places`: of the ranks that have begun. `taken`: what is being taken away. `stopped_by`: for
    what the ranks were asked to stop, None where the user asked. `hung`: for how many seconds there was no step when that was too
    long, and after which one."""

    places: dict[int, Place] = field(default_factory=dict)
    failed: list[RankFailed] = field(default_factory=list)
    trained: Trained | None = None
    taken: Taken | None = None
    asked: bool = False
    stopped_by: Taken | None = None
    hung: tuple[float, int] | None = None


Message = Said | Signalled | Draining


def listen(
    messages: queue.SimpleQueue[Message],
    on_event: Callable[[Event], None],
    *,
    stop: Callable[[], object],
    on_hang: Callable[[Heard], object],
) -> Heard:
    """Hear all messages, to the last. `stop` is called once, when the ranks should save a checkpoint and stop; `on_hang` once,
    when they do not move any more: it ends them."""
    heard, watch, draining_nodes = Heard(), Watch(), frozenset[str]()
    step = 0

    def ask(by: Taken | None) -> None:
        if by and (heard.taken is None or heard.taken.ranks is not None):  # else all is taken away already
            heard.taken = by
        if not heard.asked:
            heard.asked, heard.stopped_by = True, by
            why = by.what if by else "Asked to stop. Once more stops at once."
            on_event(Warned(f"{why} A checkpoint is saved after this step."))
            stop()

    while True:
        try:
            message = messages.get(timeout=None if heard.hung else watch.left(time.monotonic()))
        except queue.Empty:
            heard.hung = (watch.limit, step)
            on_hang(heard)
            continue
        if isinstance(message, StageStarted | Step | Away):
            watch.hear(message, time.monotonic())
            step = message.step if isinstance(message, Step) else step
        match message:
            case None:
                return heard
            case Away():
                pass
            case Signalled(signal.SIGINT):
                ask(None)
            case Signalled():
                ask(DRIVER_TOLD)
            case RankPlaced() | Draining():
                if isinstance(message, RankPlaced):
                    heard.places[message.rank] = message.place
                else:
                    draining_nodes |= message.nodes
                if taken := taken_away(draining_nodes, heard.places):
                    ask(taken)
            case RankFailed():
                heard.failed.append(message)
                logger.error("Rank %s failed:\n%s", message.failure.rank, message.traceback)
            case Trained():
                heard.trained = message
            case _:
                on_event(message)


def first_cause(failed: list[RankFailed], outcome: list[BaseException]) -> Failure:
    """Of several failures the one that explains the others: a rank that is gone makes its peers' collectives fail."""
    failures = [report.failure for report in failed]
    failures += [_lost(classify(error, rank=rank)) for problem in outcome for rank, error in _by_rank(problem)]
    consequences = (Reason.COLLECTIVE, Reason.UNKNOWN)
    return (
        next((failure for failure in failures if failure.reason not in consequences), failures[0])
        if failures
        else _silent()
    )


def _by_rank(problem: BaseException) -> list[tuple[int | None, BaseException]]:
    ranks: dict[int, BaseException] = getattr(problem, "worker_failures", None) or {}
    return list(ranks.items()) or [(None, problem)]


def _lost(failure: Failure) -> Failure:
    """Ray tells all that it knows of a worker; the user needs to know that it is gone."""
    if failure.reason != Reason.WORKER_LOST or failure.rank is None:
        return failure
    return replace(
        failure, message=f"Rank {failure.rank} is gone: its process died without a word.", detail=failure.message
    )


def _silent() -> Failure:
    return infrastructure_error(
        Reason.CLUSTER_LOST,
        "Ray ended before the ranks did.",
        AGAIN,
    ).failure
