from __future__ import annotations

import pytest

from finetune_training.contract.failure import FinetuneError
from finetune_training.driver.watch import Watch, floor
from finetune_training.events.progress import Away, Report, Stage, StageStarted, Step


def step(number: int, seconds: float = 1.0) -> Step:
    return Step(number, 100, 0.1, 1.0, 1e-3, 1.0, 10, 5, seconds, 10.0, 5.0)


def after(*reports: Report, floor: float = 60.0) -> Watch:
    """A watch that has heard `reports`, one each second from 1 on."""
    watch = Watch(floor)
    for now, report in enumerate(reports, 1):
        watch.hear(report, float(now))
    return watch


TRAINING = StageStarted(Stage.TRAINING)


def test_steps_that_come_are_no_hang_and_one_that_does_not_is() -> None:
    watch = after(TRAINING, step(1), step(2), step(3))
    assert watch.left(4.0) == 60.0
    assert watch.left(63.5) == 0.5
    assert watch.left(64.0) == watch.left(1000.0) == 0.0


@pytest.mark.parametrize(
    "reports",
    [
        pytest.param((TRAINING,), id="no step yet"),
        pytest.param((TRAINING, step(1), step(2)), id="the first steps compile"),
        pytest.param((TRAINING, step(1), step(2), step(3), Away()), id="saving, or evaluating"),
        pytest.param((TRAINING, step(1), step(2), step(3), StageStarted(Stage.EVALUATING)), id="the last evaluation"),
        pytest.param((TRAINING, step(1), step(2), step(3), StageStarted(Stage.EXPORTING)), id="export"),
    ],
)
def test_stages_that_take_as_long_as_they_take_are_not_watched_for_hangs(reports: tuple[Report, ...]) -> None:
    assert after(*reports).left(10_000.0) is None


def test_a_run_is_watched_again_after_a_save() -> None:
    watch = after(TRAINING, step(1), step(2), step(3), Away(), Away(over=True))
    assert watch.left(7.0) == 59.0


def test_slow_steps_have_more_time_before_they_are_a_hang() -> None:
    watch = after(TRAINING, *(step(number, seconds=30.0) for number in range(1, 8)))
    assert watch.limit == 300.0
    assert after(TRAINING, step(1, 500.0), step(2, 500.0), step(3)).limit == 60.0


def test_nothing_is_a_hang_where_nobody_wants_to_know() -> None:
    assert after(TRAINING, step(1), step(2), step(3), floor=0.0).left(1000.0) is None


def test_the_least_time_before_a_hang_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert floor() == 300.0
    monkeypatch.setenv("FINETUNE_HANG_SECONDS", "20")
    assert Watch().floor == 20.0
    monkeypatch.setenv("FINETUNE_HANG_SECONDS", "soon")
    with pytest.raises(FinetuneError) as raised:
        floor()
    assert raised.value.failure.reason == "InvalidHangSeconds"
