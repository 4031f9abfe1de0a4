"""What Ray says when it does not start is told in our words. (Seen with `ulimit -n 48`, after half a minute.)"""

from __future__ import annotations

import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.driver.ray_cluster import _starting

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.mark.parametrize(
    ("address", "said", "expected", "remedy"),
    [
        ("", LATE, f"Ray could not be started here: {LATE}", "ulimit"),
        ("", "", "Ray could not be started here: Exception", "ulimit"),
        (
            "ray:6379",
            "Version mismatch:\n  2.59",
            "Ray at ray:6379 could not be joined: Version mismatch:",
            "that cluster",
        ),
    ],
)
def test_a_machine_on_which_ray_does_not_start_is_no_bug(
    address: str, said: str, expected: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(FinetuneError) as caught, _starting():
        raise Exception(said)
    failure = caught.value.failure
    assert (failure.cls, failure.reason, failure.message) == (FailureClass.INFRASTRUCTURE, "RayNotStarted", expected)
    assert remedy in failure.remedy


@pytest.mark.parametrize("error", [ConnectionError("refused"), MemoryError(), KeyboardInterrupt()])
def test_what_is_known_already_stays_what_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)), _starting():
        raise error
