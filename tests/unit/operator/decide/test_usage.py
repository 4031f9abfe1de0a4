"""Where an attempt's time has gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.decide.usage import KINDS, Times, added, spent
from finetune_training.contract.run import SecondsStatus

SAID = {
    "preparing": 10,
    "starting": 20,
    "training": 100,
    "evaluating": 5,
    "exporting": 0,
    "checkpointing": 3,
    "lost": 2,
}
# Waited for 50 s; the driver's first word came 30 s later, and its last one 140 s after that.
TIMES = Times(since=0, running=50, spoke=220, end=230)


def said(**seconds: float) -> SecondsStatus:
    return SecondsStatus.model_validate(SAID | seconds)


def kinds(**seconds: float) -> dict[str, float]:
    return {kind: seconds.get(kind, 0) for kind in KINDS}


def test_the_time_of_an_attempt_that_succeeded_is_divided() -> None:
    assert spent(TIMES, said(), succeeded=True) == kinds(
        waiting=50, starting=50, preparing=10, training=100, evaluating=5, checkpoint=3, lost=2
    )


def test_an_attempt_that_failed_has_lost_what_it_had_not_saved() -> None:
    seconds = spent(TIMES, said(sinceCheckpoint=40), succeeded=False)
    assert (seconds["training"], seconds["lost"]) == (60, 2 + 40 + 10)
    assert sum(seconds.values()) == 230


def test_a_head_that_prepares_while_workers_wait_does_not_wait() -> None:
    seconds = spent(Times(since=0, running=100, spoke=110, end=110), SecondsStatus(preparing=90), succeeded=True)
    assert (seconds["waiting"], seconds["starting"], seconds["preparing"]) == (20, 0, 90)


def test_an_attempt_whose_driver_said_nothing_was_still_starting() -> None:
    assert spent(Times(since=0, running=50, end=80), None, succeeded=False) == kinds(waiting=50, starting=30)


def test_an_attempt_without_pods_has_only_waited() -> None:
    assert spent(Times(since=0, end=80), None, succeeded=False) == kinds(waiting=80)


def test_a_driver_that_does_not_report_seconds_has_some_that_nobody_knows() -> None:
    assert spent(Times(since=0, running=50, spoke=100, end=110), None, succeeded=False) == kinds(waiting=50)


numbers = st.floats(0, 1000)


@given(
    st.builds(Times, numbers, numbers, st.none() | numbers, st.none() | numbers),
    st.none() | st.fixed_dictionaries(dict.fromkeys([*SAID, "sinceCheckpoint"], numbers)),
    st.booleans(),
)
def test_whatever_the_clocks_say_no_time_is_negative_and_none_is_missing(
    times: Times, numbers: dict[str, float] | None, succeeded: bool
) -> None:
    seconds = spent(times, SecondsStatus.model_validate(numbers) if numbers else None, succeeded=succeeded)
    assert min(seconds.values()) >= 0
    if numbers and times.spoke is not None and not succeeded:
        told = sum(value for name, value in numbers.items() if name != "sinceCheckpoint")
        whole = max(times.end, times.since) - times.since
        assert sum(seconds.values()) >= min(whole, told) - 1e-6


def test_the_usage_of_attempts_adds_up() -> None:
    first = added(None, kinds(waiting=10.4, training=29.6, lost=60), total=100, gpu_seconds=800)
    assert (first.waiting_seconds, first.training_seconds, first.goodput) == (10, 30, 0.3)
    second = added(first, kinds(training=170.2), total=200, gpu_seconds=1600)
    assert (second.training_seconds, second.total_seconds, second.gpu_seconds) == (200, 300, 2400)
    assert second.goodput == 0.667


def test_no_time_at_all_has_no_goodput() -> None:
    assert added(None, kinds(), total=0, gpu_seconds=0).goodput == 0
    assert added(None, kinds(training=9), total=5, gpu_seconds=0).goodput == 1
