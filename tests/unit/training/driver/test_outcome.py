"""Who failed first: each kind of evidence before all that stand below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from finetune_training.contract.failure import Failure, FailureClass, infrastructure_error, user_error
from finetune_training.driver.listen import Heard
from finetune_training.driver.outcome import announced, first, outcome
from finetune_training.driver.preemption import DRIVER_TOLD, Taken
from finetune_training.events.progress import Trained
from finetune_training.worker.container import HostMemory
from finetune_training.worker.line import Place, RankFailed

ONE = Taken("Machine 10.0.0.1 with rank 0 is being taken away.", frozenset({0}))
PLACES = {0: Place("n1", "10.0.0.1"), 1: Place("n2", "10.0.0.2", kills=3)}
HANG = Failure(FailureClass.HANG, "Hang", "Nothing moves.")
NAN = user_error("LossNotFinite", "NaN").failure
TRAINED, STOPPED = Trained(9, interrupted=False), Trained(5, interrupted=True)


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
    found = announced(failure, taken)
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
    assert announced(failure, taken) is failure


class Died(Exception):
    """As Ray Train ends with it: an error of each rank that it knows of."""

    def __init__(self, **of_ranks: BaseException) -> None:
        super().__init__("training failed")
        self.worker_failures = {int(rank.removeprefix("rank_")): error for rank, error in of_ranks.items()}


class ActorDiedError(Exception):
    """As Ray says that a process is gone."""

    __module__ = "ray.exceptions"


def said(*failures: Failure) -> list[RankFailed]:
    return [RankFailed(failure, "") for failure in failures]


def quiet(nodes: Iterable[str]) -> Mapping[str, HostMemory]:
    """Nothing was killed anywhere."""
    return {node: HostMemory(None, None, kills=3 if node == "n2" else 0) for node in nodes}


def ends(heard: Heard, *ended: BaseException, told_to_end: bool = False, memory_on: Any = quiet) -> Trained | Failure:
    return outcome(replace(heard, places=PLACES), ended, memory_on, told_to_end=told_to_end)


def failed(heard: Heard, *ended: BaseException, **how: Any) -> Failure:
    found = ends(heard, *ended, **how)
    assert isinstance(found, Failure)
    return found


def test_ranks_that_have_trained_and_say_nothing_else_have_trained() -> None:
    assert ends(Heard(trained=TRAINED)) is TRAINED


def test_what_comes_of_ending_ranks_that_hang_does_not_count() -> None:
    heard = Heard(hung=HANG, trained=STOPPED, failed=said(NAN), taken=DRIVER_TOLD)
    assert ends(heard, Died(rank_0=ActorDiedError()), told_to_end=True) is HANG


def test_ranks_that_have_stopped_as_they_were_asked_may_die() -> None:
    heard = Heard(trained=STOPPED, asked=True, stopped_by=ONE, taken=ONE, failed=said(lost("Collective", 1)))
    failure = failed(heard, Died(rank_0=ActorDiedError()))
    assert (failure.reason, failure.message) == (
        "MachineTaken",
        f"{ONE.what} Stopped after step 5; its checkpoint is saved.",
    )


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        (Heard(trained=TRAINED), "Preempted"),
        (Heard(trained=STOPPED, asked=True, stopped_by=ONE), "Preempted"),
        (Heard(trained=STOPPED, asked=True), "Interrupted"),
        (Heard(trained=TRAINED, asked=True), "Interrupted"),
    ],
    ids=["after the last step", "for a machine", "the user asked", "the user asked after the last step"],
)
def test_a_driver_that_is_told_to_end_says_so_unless_the_user_asked_first(heard: Heard, reason: str) -> None:
    assert failed(heard, told_to_end=True).reason == reason


def test_a_ranks_own_word_comes_before_what_ray_says_of_another() -> None:
    heard = Heard(failed=said(lost("Collective", 1), NAN))
    assert failed(heard, Died(rank_0=ActorDiedError())) is NAN


def test_a_rank_that_is_gone_explains_what_its_peers_say() -> None:
    failure = failed(Heard(failed=said(lost("Collective", 1))), Died(rank_0=ActorDiedError("all that Ray knows")))
    assert (failure.reason, failure.rank) == ("WorkerLost", 0)
    assert failure.message == "Rank 0 is gone: its process died without a word."
    assert failure.detail == "ActorDiedError: all that Ray knows"


def test_where_all_are_consequences_the_first_counts() -> None:
    one, other = lost("Collective", 1), lost("Unknown", 0)
    assert first(said(one, other), []) is one
    assert first(said(other, one), [ValueError("?")]) is other


def test_where_nobody_says_anything_ray_is_gone() -> None:
    assert first([], []).reason == "ClusterLost"
    assert failed(Heard()).message == "Ray ended before the ranks did."


def test_ranks_that_say_they_have_trained_and_then_fail_have_failed() -> None:
    assert failed(Heard(trained=TRAINED, failed=said(NAN))) is NAN


def test_a_loss_that_was_announced_is_not_looked_into_any_more() -> None:
    def asks(nodes: Iterable[str]) -> Mapping[str, HostMemory]:
        raise AssertionError(nodes)

    heard = Heard(failed=said(lost("Collective", 1)), taken=ONE)
    assert failed(heard, memory_on=asks).reason == "MachineTaken"
    assert failed(Heard(failed=said(NAN)), memory_on=asks) is NAN


@pytest.mark.parametrize(
    ("failure", "asked", "killed"),
    [
        pytest.param(lost("WorkerLost", 1), ["n2"], 1, id="where the rank was"),
        pytest.param(lost("WorkerLost", 0), ["n1"], None, id="not where another was"),
        pytest.param(lost("Collective", 0), ["n1", "n2"], 1, id="any peer"),
        pytest.param(lost("NodeLost", None), ["n1", "n2"], 1, id="any rank"),
    ],
)
def test_the_kernels_counter_tells_that_a_loss_was_for_want_of_memory(
    failure: Failure, asked: list[str], killed: int | None
) -> None:
    nodes: list[str] = []

    def memory_on(given: Iterable[str]) -> Mapping[str, HostMemory]:
        nodes.extend(given)
        known = {"n1": HostMemory(None, None, 0), "n2": HostMemory(3 * 2**30, None, 4)}
        return {node: known[node] for node in nodes}

    found = failed(Heard(failed=said(failure)), memory_on=memory_on)
    assert nodes == asked
    if killed is None:
        assert found is failure
    else:
        assert (found.cls, found.reason, found.rank) == (FailureClass.OUT_OF_MEMORY, "OutOfMemory", killed)
        assert found.message == "Rank 1 on 10.0.0.2 was killed by the kernel: its host memory of 3.0 GiB was used up."


def test_a_machine_that_does_not_answer_leaves_the_loss_as_it_is() -> None:
    failure = lost("WorkerLost", 1)
    assert failed(Heard(failed=said(failure)), memory_on=lambda nodes: {}) is failure
