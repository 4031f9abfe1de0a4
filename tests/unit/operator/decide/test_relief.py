"""A run that goes on with less memory is announced once."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.effects import Announce, SetStatus
from finetune_operator.decide.reconcile import decide
from finetune_operator.decide.relief import relieved
from tests.unit.operator.worlds import PLATFORM, RUNNING, Object, job, rayjob, world
from tests.unit.operator.worlds import status as written

ASKED: Object = {
    "training": {"microBatchSize": 4, "globalBatchSize": 64, "gradientCheckpointing": False},
    "deepspeed": {"stage": 2},
}
ZERO = {"rung": 0, "microBatchSize": 4, "gradientCheckpointing": False, "offload": "None", "stage": 2}


@pytest.mark.parametrize(
    ("announced", "now", "what"),
    [
        pytest.param(None, {"rung": 1, "microBatchSize": 2}, "micro batch 4 → 2", id="the first step"),
        pytest.param(
            {"rung": 1, "microBatchSize": 2}, {"rung": 2, "microBatchSize": 1}, "micro batch 2 → 1", id="the second"
        ),
        pytest.param(
            {"rung": 2, "microBatchSize": 1},
            {"rung": 5, "microBatchSize": 1, "gradientCheckpointing": True, "offload": "Optimizer", "stage": 3},
            "gradient checkpointing off → on, offload None → Optimizer, ZeRO stage 2 → 3",
            id="several at once",
        ),
        pytest.param({"rung": 1}, {"rung": 2}, "rung 1 → 2", id="one that has no name"),
    ],
)
def test_less_memory_is_announced_with_what_has_changed(announced: Object | None, now: Object, what: str) -> None:
    body = job(status=written("Training", run={"memory": ZERO | now | {"peakBytes": 7}}), **ASKED)
    if announced:
        body["status"]["memory"] = ZERO | announced
    relief = relieved(world(body))
    assert relief
    assert relief[0].to_json() == ZERO | now
    assert relief[1] == f"The run does not fit into memory and goes on with less: {what}. The global batch is the same."


@pytest.mark.parametrize(
    ("announced", "run"),
    [
        pytest.param(None, {}, id="a driver that does not say"),
        pytest.param(None, {"memory": ZERO}, id="one that needs no less"),
        pytest.param(ZERO | {"rung": 2}, {"memory": ZERO | {"rung": 2}}, id="what was said"),
        pytest.param(ZERO | {"rung": 2}, {"memory": ZERO | {"rung": 1}}, id="a new attempt that asks for more again"),
    ],
)
def test_a_run_that_says_nothing_new_about_memory_is_not_announced(
    announced: Object | None, run: dict[str, Any]
) -> None:
    body = job(status=written("Training", run=run), **ASKED)
    if announced:
        body["status"]["memory"] = announced
    assert relieved(world(body)) is None


def test_less_memory_is_an_event_once_and_then_in_the_status() -> None:
    run = {"stage": "Training", "memory": ZERO | {"rung": 1, "microBatchSize": 2, "peakBytes": 7}}
    body = job(status=written("Training", run=run), **ASKED)
    effects = decide(world(body, rayjobs=[rayjob(**RUNNING)]), PLATFORM).effects
    (status,) = (each.status for each in effects if isinstance(each, SetStatus))
    events = [(each.type, each.reason) for each in effects if isinstance(each, Announce)]
    assert events == [("Warning", "MemoryRelieved")]
    assert status["memory"] == ZERO | {"rung": 1, "microBatchSize": 2}
    again = job(status=dict(status) | {"run": body["status"]["run"]}, **ASKED)
    assert decide(world(again, rayjobs=[rayjob(**RUNNING)]), PLATFORM).effects == ()
