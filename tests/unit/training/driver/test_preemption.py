"""What is taken away from a run, and how an attempt ends for it."""

from __future__ import annotations

import queue
import signal

import pytest

from finetune_training.contract.failure import Failure, FailureClass, infrastructure_error
from finetune_training.driver.listen import Draining, Heard, Message, Signalled, listen
from finetune_training.driver.preemption import DRIVER_TOLD, Taken, explained, stopped, taken_away
from finetune_training.events.progress import Event, Trained, Warned
from finetune_training.worker.line import Place, RankFailed, RankPlaced

PLACES = {
    0: Place("n1", "10.0.0.1"),
    1: Place("n2", "10.0.0.2"),
    2: Place("n2", "10.0.0.2"),
    3: Place("n3", "10.0.0.3"),
}
ONE = Taken("Machine 10.0.0.1 with rank 0 is being taken away.", frozenset({0}))


@pytest.mark.parametrize(
    ("draining", "taken"),
    [
        (set(), None),
        ({"of another run"}, None),
        ({"n1"}, ONE),
        (
            {"n2", "of another run"},
            Taken("Machine 10.0.0.2 with ranks 1 and 2 is being taken away.", frozenset({1, 2})),
        ),
        (
            {"n1", "n2"},
            Taken("Machines 10.0.0.1 and 10.0.0.2 with ranks 0, 1 and 2 are being taken away.", frozenset({0, 1, 2})),
        ),
    ],
)
def test_what_goes_with_the_nodes_that_are_told_to_end(draining: set[str], taken: Taken | None) -> None:
    assert taken_away(draining, PLACES) == taken


def test_who_wanted_a_run_to_stop_decides_the_class() -> None:
    asked, preempted = stopped(7, None), stopped(7, ONE)
    assert (asked.cls, asked.message) == (FailureClass.INTERRUPTED, "Stopped after step 7; its checkpoint is saved.")
    assert (preempted.cls, preempted.reason, preempted.exit_code) == (FailureClass.PREEMPTED, "MachineTaken", 7)
    assert preempted.message == f"{ONE.what} {asked.message}"
    assert stopped(7, DRIVER_TOLD).reason == "Preempted"


def lost(reason: str, rank: int | None) -> Failure:
    return Failure(FailureClass.INFRASTRUCTURE, reason, "It is gone.", "Again.", rank=rank)


@pytest.mark.parametrize(
    ("failure", "taken"),
    [
        (lost("WorkerLost", 0), ONE),
        (lost("NodeLost", None), ONE),
        pytest.param(lost("Collective", 1), ONE, id="a peer of what was taken"),
        pytest.param(lost("WorkerLost", 1), DRIVER_TOLD, id="all are taken"),
    ],
)
def test_a_loss_that_was_announced_is_preemption(failure: Failure, taken: Taken) -> None:
    found = explained(failure, taken)
    assert (found.cls, found.reason, found.rank) == (*taken.kind, failure.rank)
    assert found.message.startswith(taken.what)
    assert found.detail == "It is gone."


@pytest.mark.parametrize(
    ("failure", "taken"),
    [
        pytest.param(lost("WorkerLost", 0), None, id="nothing was announced"),
        pytest.param(lost("WorkerLost", 1), ONE, id="a rank elsewhere"),
        pytest.param(infrastructure_error("StoreUnavailable", "no").failure, DRIVER_TOLD, id="another cause"),
    ],
)
def test_a_failure_that_preemption_does_not_explain_stays_what_it_is(failure: Failure, taken: Taken | None) -> None:
    assert explained(failure, taken) is failure


def hear(*messages: Message) -> tuple[Heard, list[Event], int]:
    """What the driver made of the messages, the events it passed on, and how often it told the ranks to stop."""
    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
    for message in (*(RankPlaced(rank, place) for rank, place in PLACES.items()), *messages, None):
        waiting.put(message)
    events: list[Event] = []
    stops: list[int] = []
    heard = listen(waiting, events.append, stop=lambda: stops.append(1), on_hang=lambda _: None)
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
    heard, events, stops = hear(Draining(frozenset({"n9"})), RankFailed(lost("Collective", 0), ""))
    assert (heard.asked, heard.taken, events, stops) == (False, None, [], 0)


def test_a_rank_that_starts_on_a_node_that_is_going_is_asked_to_stop() -> None:
    heard, _, stops = hear(Draining(frozenset({"n4"})), RankPlaced(4, Place("n4", "10.0.0.4")))
    assert stops == 1
    assert heard.taken == Taken("Machine 10.0.0.4 with rank 4 is being taken away.", frozenset({4}))
