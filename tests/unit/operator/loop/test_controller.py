"""What the loop counts. The loop itself is tested on a real API server."""

from __future__ import annotations

import pytest

from finetune_operator.api.reading import read
from finetune_operator.api.status import FineTuneJobStatus
from finetune_operator.loop.controller import attempt_end
from finetune_operator.observe.views import compact
from tests.unit.operator.worlds import Object

FIRST = {"attempt": 1, "class": "Unknown", "reason": "DriverEnded"}
SECOND = FIRST | {"attempt": 2}
COMPLETE = {"phase": "Succeeded", "conditions": [{"type": "Complete", "status": "True"}]}


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        pytest.param({}, {"phase": "Pending", "attempt": 1}, "", id="the first attempt begins"),
        pytest.param({"attempt": 1}, {"attempts": [FIRST]}, "Unknown", id="it fails"),
        pytest.param(
            {"attempts": [FIRST]}, {"attempts": [FIRST, SECOND]}, "Unknown", id="the second fails of the same"
        ),
        pytest.param({"attempts": [FIRST]}, {"attempts": [FIRST], "phase": "Training"}, "", id="the second runs"),
        pytest.param({}, {"attempts": [FIRST | {"class": "", "reason": "Succeeded"}]}, "Succeeded", id="it succeeds"),
        pytest.param(
            {}, {"attempts": [FIRST | {"class": "", "reason": "Suspended"}]}, "Suspended", id="it is suspended"
        ),
        pytest.param({"attempts": [FIRST]}, COMPLETE | {"attempts": [FIRST]}, "", id="a changed spec is acknowledged"),
        pytest.param({}, {"phase": "Failed"}, "", id="the job fails without one"),
    ],
)
def test_each_attempt_is_counted_once(before: Object, after: Object, end: str) -> None:
    assert attempt_end(*(read(FineTuneJobStatus, compact(each)) for each in (before, after))) == end
