"""A run that no longer learns is told from one that stumbles."""

from __future__ import annotations

import math

import pytest

from finetune_training.contract.failure import FinetuneError
from finetune_training.events.progress import Step
from finetune_training.events.result import Scores
from finetune_training.worker.divergence import Divergence

GUESSING = math.log(100)


def _step(number: int, loss: float, norm: float | None = 1.0) -> Step:
    return Step(number, 100, 0.0, loss, 1e-4, norm, 10, 10, 1.0, 10.0, 1.0)


def _scores(loss: float) -> Scores:
    return Scores(loss=loss, perplexity=math.exp(loss), supervised_tokens=10)


def _checked(losses: list[float], *, base: float | None = None) -> str:
    """Class, reason and step; empty: the run goes on."""
    watch = Divergence(100, None if base is None else _scores(base))
    for number, loss in enumerate(losses, 1):
        try:
            watch.check(_step(number, loss))
        except FinetuneError as error:
            return f"{error.failure.cls} {error.failure.reason} {number}"
    return ""


@pytest.mark.parametrize(
    ("losses", "base", "expected"),
    [
        pytest.param([4.0, *[13.0] * 9, 4.0, *[13.0] * 9], None, "", id="it comes back"),
        pytest.param([4.0, *[GUESSING] * 10], None, "User LossDiverged 11", id="it is dead: every token is as likely"),
        pytest.param([4.0, *[13.0] * 10], None, "User LossDiverged 11", id="it was better before"),
        pytest.param([13.0] * 10, 4.0, "User LossDiverged 10", id="the base was better"),
        pytest.param([GUESSING + 0.1] * 50, None, "", id="trained from nothing: it never was better"),
        pytest.param([GUESSING - 0.1, *[GUESSING + 0.1] * 50], None, "", id="it knows nothing yet"),
        pytest.param([GUESSING + 0.1] * 50, GUESSING + 0.2, "", id="nor was its base"),
        pytest.param([4.0, math.nan], None, "User LossNotFinite 2", id="not a number"),
        pytest.param([math.inf], None, "User LossNotFinite 1", id="infinite"),
    ],
)
def test_when_a_run_is_stopped(losses: list[float], base: float | None, expected: str) -> None:
    assert _checked(losses, base=base) == expected


@pytest.mark.parametrize(
    ("losses", "doubted"),
    [
        pytest.param([4.0, 3.0], False, id="it learns"),
        pytest.param([4.0, 13.0], True, id="it was better before"),
        pytest.param([4.0, 13.0, 4.0], False, id="it has come back"),
        pytest.param([GUESSING + 0.1] * 3, False, id="trained from nothing"),
    ],
)
def test_what_is_saved_last_knows_something(losses: list[float], doubted: bool) -> None:
    watch = Divergence(100)
    for number, loss in enumerate(losses, 1):
        watch.check(_step(number, loss))
    assert watch.in_doubt is doubted


def test_a_gradient_that_is_not_finite_is_named() -> None:
    with pytest.raises(FinetuneError, match="gradient of step 7") as caught:
        Divergence(100).check(_step(7, 1.0, norm=math.inf))
    assert caught.value.failure.reason == "LossNotFinite"


def test_a_model_that_is_worse_than_its_base_is_said_to_be() -> None:
    watch = Divergence(100)
    assert watch.compare(_scores(3.0), _scores(3.0)) is None
    assert watch.compare(None, _scores(9.0)) is None
    worse = watch.compare(_scores(3.0), _scores(3.5))
    assert worse is not None
    assert "loss 3.5 against 3" in worse.message
    with pytest.raises(FinetuneError, match="knows nothing") as caught:
        watch.compare(_scores(3.0), _scores(5.0))
    assert caught.value.failure.reason == "LossDiverged"


def test_a_model_whose_last_loss_is_not_finite_is_refused() -> None:
    for base in (None, _scores(3.0)):
        with pytest.raises(FinetuneError) as caught:
            Divergence(100).compare(base, Scores(loss=math.nan, perplexity=math.nan, supervised_tokens=1))
        assert caught.value.failure.reason == "LossNotFinite"
