"""What the driver makes of the messages, one after the other."""

from __future__ import annotations

import queue
import signal

import pytest

from finetune_training.contract.failure import Failure, FailureClass
from finetune_training.driver.listen import Draining, Heard, Message, Signalled, listen
from finetune_training.driver.preemption import DRIVER_TOLD, Taken
from finetune_training.events.progress import Away, Event, Stage, StageStarted, Trained, Warned
from finetune_training.worker.line import Place, RankFailed, RankPlaced
from tests.finished_run import step

PLACES = {
    0: Place("n1", "10.0.0.1"),
    1: Place("n2", "10.0.0.2"),
    2: Place("n2", "10.0.0.2"),
    3: Place("n3", "10.0.0.3"),
}
ONE = Taken("Machine 10.0.0.1 with rank 0 is being taken away.", frozenset({0}))
COLLECTIVE = Failure(FailureClass.INFRASTRUCTURE, "Collective", "It is gone.", "Again.", rank=0)
HANG = Failure(FailureClass.HANG, "Hang", "Nothing moves.")


def hear(*messages: Message) -> tuple[Heard, list[Event], int]:
    """What the driver made of the messages, the events it passed on, and how often it told the ranks to stop."""
    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
    for message in (*(RankPlaced(rank, place) for rank, place in PLACES.items()), *messages, None):
        waiting.put(message)
    events: list[Event] = []
    stops: list[int] = []
    heard = listen(waiting, events.append, stop=lambda: stops.append(1), on_hang=lambda *_: HANG)
    return heard, events, len(stops)


def test_the_ranks_are_told_once_for_what_came_first() -> None:
    heard, events, stops = hear(
        Draining(frozenset({"n1"})), Draining(frozenset({"n1", "n2"})), Signalled(signal.SIGTERM), Trained(3, True)
    )
    assert stops == 1
    assert [event.message for event in events if isinstance(event, Warned)] == [
        f"{ONE.what} A checkpoint is saved after this step."
    ]
    assert (heard.stopped_by, heard.taken) == (ONE, DRIVER_TOLD)
    assert heard.trained
    assert heard.trained.step == 3


def test_ctrl_c_is_the_users_and_sigterm_is_not() -> None:
    heard, _, stops = hear(Signalled(signal.SIGINT), Signalled(signal.SIGTERM))
    assert (stops, heard.stopped_by, heard.taken) == (1, None, DRIVER_TOLD)
    heard, _, stops = hear(Signalled(signal.SIGTERM))
    assert (stops, heard.stopped_by) == (1, DRIVER_TOLD)


def test_nodes_of_others_do_not_concern_a_run() -> None:
    heard, events, stops = hear(Draining(frozenset({"n9"})), RankFailed(COLLECTIVE, ""))
    assert (heard.asked, heard.taken, events, stops) == (False, None, [], 0)


def test_a_rank_that_starts_on_a_node_that_is_going_is_asked_to_stop() -> None:
    heard, _, stops = hear(Draining(frozenset({"n4"})), RankPlaced(4, Place("n4", "10.0.0.4")))
    assert stops == 1
    assert heard.taken == Taken("Machine 10.0.0.4 with rank 4 is being taken away.", frozenset({4}))


def test_events_are_passed_on_and_what_only_the_watch_needs_is_not() -> None:
    training, trained = StageStarted(Stage.TRAINING), Trained(2, interrupted=False)
    heard, events, _ = hear(training, step(1), Away(), Away(over=True), step(2), trained)
    assert events == [training, step(1), step(2)]
    assert (heard.step, heard.trained) == (2, trained)


def test_ranks_that_do_not_move_are_ended_once_and_heard_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_HANG_SECONDS", "0.01")
    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
    for number in range(1, 4):
        waiting.put(step(number, seconds=0.0001))
    ended: list[tuple[int, float]] = []

    def end(heard: Heard, seconds: float) -> Failure:
        ended.append((heard.step, seconds))
        for message in (RankFailed(COLLECTIVE, ""), None):
            waiting.put(message)
        return HANG

    heard = listen(waiting, lambda _: None, stop=lambda: None, on_hang=end)
    assert ended == [(3, 0.01)]
    assert heard.hung is HANG
    assert [report.failure for report in heard.failed] == [COLLECTIVE]
