"""Signals in any order and number."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from finetune_training.contract.failure import Terminated
from finetune_training.driver.signals import end_at_sigterm, signals_to, told_to_end

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (INT, TERM)}
    signal.signal(INT, signal.default_int_handler)
    end_at_sigterm()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_the_first_sigterm_ends_the_process_and_the_next_do_not_disturb_its_end() -> None:
    try:
        send(TERM)
    except Terminated:
        send(TERM, TERM)
        assert told_to_end()
    else:
        pytest.fail("it goes on")


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ([TERM], [TERM]),
        ([TERM, TERM, TERM], [TERM]),
        ([INT], [INT]),
        ([INT, TERM, TERM], [INT, TERM]),
        ([TERM, INT, TERM], [TERM, INT]),
    ],
    ids=str,
)
def test_while_ranks_train_each_signal_is_told_once(sent: list[signal.Signals], told: list[signal.Signals]) -> None:
    heard: list[int] = []
    with signals_to(heard.append):
        send(*sent)
        assert heard == told
    assert told_to_end() == (TERM in sent)


def test_a_sigterm_that_was_told_does_not_end_what_comes_after_the_ranks() -> None:
    with signals_to(lambda _: None):
        send(TERM)
    send(TERM, TERM)
    assert told_to_end()


@pytest.mark.parametrize("sent", [[INT, INT], [TERM, INT, INT], [INT, TERM, INT]], ids=str)
def test_ctrl_c_twice_ends_at_once(sent: list[signal.Signals]) -> None:
    with pytest.raises(KeyboardInterrupt) as raised, signals_to(lambda _: None):
        send(*sent)
    assert not isinstance(raised.value, Terminated)


def test_where_nothing_was_told_the_next_sigterm_ends_the_process_again() -> None:
    with signals_to(lambda _: None):
        pass
    with pytest.raises(Terminated):
        send(TERM)
