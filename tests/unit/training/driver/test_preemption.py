"""What is taken away from a run, and how an attempt ends that was stopped for it."""

from __future__ import annotations

import pytest

from finetune_training.contract.failure import FailureClass
from finetune_training.driver.preemption import DRIVER_TOLD, Taken, stopped, taken_away
from finetune_training.worker.line import Place

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
