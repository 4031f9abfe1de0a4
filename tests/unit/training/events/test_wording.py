"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from finetune_training.events import wording
from finetune_training.events.result import Evaluations, Scores
from tests.finished_run import scores


@pytest.mark.parametrize(
    ("base", "tuned", "sentence"),
    [
        (4.0712, 3.8106, "Held-out loss fell from 4.07 to 3.81: perplexity 58.6 → 45.2."),
        (3.8106, 4.0712, "Held-out loss rose from 3.81 to 4.07: perplexity 45.2 → 58.6."),
        (3.8101, 3.8102, "Held-out loss stayed at 3.81 (perplexity 45.2)."),
        (None, 3.8106, "Held-out loss is 3.81 (perplexity 45.2). The base model was not evaluated."),
        (math.nan, 3.8106, "Held-out loss is 3.81 (perplexity 45.2). That of the base model is not a number."),
        (4.0, math.nan, "Held-out loss is not a number: the training diverged."),
        (4.0, None, "The tuned model was not evaluated."),
    ],
)
def test_the_outcome_is_one_plain_sentence(base: float | None, tuned: float | None, sentence: str) -> None:
    found = [None if loss is None else scores(loss) for loss in (base, tuned)]
    assert wording.outcome(Evaluations(baseline=found[0], tuned=found[1])) == sentence


def test_a_perplexity_too_large_for_a_float_has_words_too() -> None:
    wild = Scores(loss=800.0, perplexity=math.inf, supervised_tokens=1)
    assert wording.outcome(Evaluations(baseline=scores(4.0), tuned=wild)) == (
        "Held-out loss rose from 4.00 to 800.00: perplexity 54.6 → infinite."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (134, "2 min 14 s"),
        (3599.7, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (190_000, "2 d 4 h"),
        (math.nan, "–"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(42, "0:42"), (134.4, "2:14"), (11_109, "3:05:09"), (math.inf, "-:--")])
def test_a_clock_shows_hours_only_when_there_are_some(seconds: float, text: str) -> None:
    assert wording.clock(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1046, "1.0 kB"),
        (29_400_000, "29.4 MB"),
        (999_900_000, "1.0 GB"),
        (3.2e15, "3200 TB"),
    ],
)
def test_a_size_has_its_unit(number: int, text: str) -> None:
    assert wording.size(number) == text


@pytest.mark.parametrize(("part", "text"), [(0.9843, "98.4 %"), (1, "100 %"), (0.99999, "99.9 %"), (0.5, "50 %")])
def test_what_is_not_all_is_never_shown_as_all(part: float, text: str) -> None:
    assert wording.share(part) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(5.213, "5.21"), (45.21, "45.2"), (1240.4, "1,240"), (3.1e12, "3.1e12"), (math.inf, "infinite")],
)
def test_perplexities_have_three_digits(number: float, text: str) -> None:
    assert wording.perplexity(number) == text


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("58.6 → 45.2 · −3 %", "utf-8", "58.6 → 45.2 · −3 %"),
        ("58.6 → 45.2 · −3 %", "ascii", "58.6 -> 45.2 - -3 %"),
        ("naïve · 日本", "latin-1", "naïve - ??"),
        ("a\x1b[31mb\x07\r\x9bc\u202ed\te\nf", "utf-8", "a[31mbcd\te\nf"),
        ("lone \ud800", "utf-8", "lone ?"),
    ],
)
def test_what_a_terminal_cannot_show_is_spelled_differently(text: str, encoding: str, shown: str) -> None:
    assert wording.printable(text, encoding) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"), (0, "0s"), (39.6, "40s"),
        (59.6, "1m00s"), (190, "3m10s"), (3599.7, "1h00m"), (7500, "2h05m"), (187_200, "2d04h"),
    ],
)  # fmt: skip
def test_a_time_in_a_table_is_brief(seconds: float, text: str) -> None:
    assert wording.brief(seconds) == text
