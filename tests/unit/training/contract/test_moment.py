"""Text ⇄ seconds since 1970."""

from __future__ import annotations

import pytest

from finetune_training.contract.moment import seconds, timestamp

NOW = 1_800_000_000.0


def test_a_moment_there_and_back() -> None:
    assert timestamp(NOW + 0.9) == "2027-01-15T08:00:00Z"
    assert seconds("2027-01-15T08:00:00Z") == NOW
    assert seconds("2027-01-15T09:00:00.500000000+01:00") == NOW + 0.5


@pytest.mark.parametrize("text", ["", None, "soon", "0000-01-01T00:00:00Z", "2027-01-15T08:00:60Z", "1"])
def test_what_is_no_time_is_none(text: str | None) -> None:
    assert seconds(text) is None


@pytest.mark.parametrize("moment", [-1e300, -62_135_596_801, 1e300, float("inf")])
def test_a_moment_out_of_all_bounds_is_the_nearest_that_has_a_text(moment: float) -> None:
    assert timestamp(moment) in ("1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
