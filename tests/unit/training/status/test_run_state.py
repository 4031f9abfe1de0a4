"""What `status.run` says after each event."""

from __future__ import annotations

import math
from typing import Any

import pytest

from finetune_training.contract.failure import AGAIN, Failure, FailureClass
from finetune_training.contract.run import RunStatus
from finetune_training.contract.spec import Offload
from finetune_training.events.progress import (
    CheckpointSaved,
    Evaluated,
    Event,
    MemoryUse,
    Prepared,
    Restarted,
    Resumed,
    Stage,
    StageStarted,
    Step,
    Warned,
)
from finetune_training.status.run_state import RunState
from tests import finished_run
from tests.finished_run import result

NOW = 1_800_000_000.0


def step(number: int, **changes: Any) -> Step:
    digits = {"epoch": 0.123456, "loss": 3.14159265, "tokens_per_second": 2000.4, "eta_seconds": 190.2}
    return finished_run.step(number, 500, **{**digits, **changes})


def run_after(*events: Event, outcome: Any = None) -> dict[str, Any]:
    """`status.run`, of which the schema knows every field."""
    state = RunState(attempt=2)
    for event in events:
        state = state.after(event)
    found = (state.ended(outcome) if outcome else state).to_status(NOW).to_json()
    RunStatus.model_validate(found, extra="forbid")
    return found


def test_an_attempt_that_has_just_begun_prepares() -> None:
    assert run_after() == {"attempt": 2, "stage": "Preparing", "updatedAt": "2027-01-15T08:00:00Z"}
    assert run_after(StageStarted(Stage.STARTING, "2 GPU workers"))["stage"] == "Preparing"


def test_a_run_under_way_has_everything_in_few_digits() -> None:
    found = run_after(
        StageStarted(Stage.PREPARING),
        Prepared(rows=40, samples=10, held_out=2, max_length=128, packed=True, useful_token_ratio=0.98437),
        Resumed(100, "s3://runs/step-100"),
        StageStarted(Stage.TRAINING),
        Evaluated(0, 4.07123, 58.6, 100, baseline=True),
        step(120),
        Evaluated(120, 3.81061, 45.2, 100, baseline=False),
        CheckpointSaved(120, "s3://runs/step-120", 1000, 0.1, time=NOW - 60),
        Restarted(1, "lost"),
        MemoryUse(2, 1, True, 3, Offload.OPTIMIZER, "less"),
        step(121, memory_peak=2**30),
        Warned("slow"),
    )
    assert found == {
        "attempt": 2, "stage": "Training", "step": 121, "totalSteps": 500, "progress": "121/500", "epoch": 0.1235,
        "loss": 3.1416, "evalLoss": 3.8106, "tokensPerSecond": 2000, "usefulTokenRatio": 0.9844,
        "etaSeconds": 190, "eta": "3m10s", "resumedFromStep": 100,
        "checkpoint": {"uri": "s3://runs/step-120", "step": 120, "time": "2027-01-15T07:59:00Z"},
        "evaluation": {"baseline": 4.0712, "tuned": 3.8106}, "restarts": 1,
        "memory": {"rung": 2, "microBatchSize": 1, "gradientCheckpointing": True, "stage": 3, "offload": "Optimizer",
                   "peakBytes": 2**30},
        "seconds": {"training": 6.6, "checkpointing": 0.1, "sinceCheckpoint": 3.3},
        "updatedAt": "2027-01-15T08:00:00Z",
    }  # fmt: skip


def test_the_stages_are_those_of_the_api_and_the_end_waits_for_what_came_of_it() -> None:
    told = [Stage.PREPARING, Stage.STARTING, Stage.EVALUATING, Stage.TRAINING, Stage.EVALUATING, Stage.EXPORTING]
    stages = [run_after(*map(StageStarted, told[: count + 1]))["stage"] for count in range(len(told))]
    assert stages == ["Preparing", "Preparing", "Evaluating", "Training", "Evaluating", "Exporting"]
    for end in (Stage.SUCCEEDED, Stage.FAILED):
        assert run_after(StageStarted(Stage.EXPORTING), StageStarted(end))["stage"] == "Exporting"


def test_only_training_has_an_eta() -> None:
    assert "eta" in run_after(StageStarted(Stage.TRAINING), step(1))
    assert (
        not {"eta", "etaSeconds"}
        & run_after(StageStarted(Stage.TRAINING), step(500), StageStarted(Stage.EXPORTING)).keys()
    )


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(number: float) -> None:
    found = run_after(
        step(1, loss=number, tokens_per_second=number, eta_seconds=number, epoch=number),
        Evaluated(0, number, number, 100, baseline=True),
    )
    assert not {"loss", "tokensPerSecond", "etaSeconds", "eta", "epoch", "evaluation"} & found.keys()
    assert found["progress"] == "1/500"


def test_success_has_the_artifacts_also_when_an_earlier_attempt_made_them() -> None:
    found = run_after(outcome=result())
    assert found["stage"] == "Succeeded"
    assert found["progress"] == f"{result().steps}/{result().steps}"
    assert found["artifacts"] == [
        {"uri": it.uri, "format": it.format, "sha256": it.sha256} for it in result().artifacts
    ]
    assert found["evaluation"].keys() == {"baseline", "tuned"}


def test_failure_has_class_reason_rank_and_what_to_do() -> None:
    failure = Failure(FailureClass.DATA, "BrokenJSON", "rows.jsonl:3: no JSON.", "Mend the line.", "detail", rank=1)
    found = run_after(step(7), outcome=failure)
    assert (found["stage"], found["step"]) == ("Failed", 7)
    assert found["failure"] == {
        "class": "Data", "reason": "BrokenJSON", "message": "rows.jsonl:3: no JSON. Mend the line.", "rank": 1
    }  # fmt: skip


def test_what_the_operator_does_by_itself_is_no_advice() -> None:
    found = run_after(outcome=Failure(FailureClass.INFRASTRUCTURE, "WorkerLost", "Rank 1 is gone.", AGAIN))
    assert found["failure"]["message"] == "Rank 1 is gone."


@pytest.mark.parametrize(
    ("message", "remedy"), [("m" * 5000, "Mend it."), ("m" * 5000, "r" * 5000), ("Short.", "r" * 5000)]
)
def test_a_long_message_is_cut_to_the_apis_limit_and_keeps_what_to_do(message: str, remedy: str) -> None:
    text = run_after(outcome=Failure(FailureClass.USER, "Long", message, remedy))["failure"]["message"]
    assert len(text) <= 1024
    assert text.startswith(message[:400])
    assert remedy[:400] in text
    assert "characters more)" in text


def test_a_message_has_no_control_characters() -> None:
    text = run_after(outcome=Failure(FailureClass.USER, "Odd", "\x1b[31mred\x1b[0m\nline"))["failure"]["message"]
    assert text == "[31mred[0m\nline"
