"""A picture of a job → the status that says it."""

from __future__ import annotations

from finetune_operator.api.status import ConditionType, FineTuneJobStatus, LastFailure
from finetune_operator.decide.picture import Fact, Picture, is_written, render_status
from finetune_operator.decide.usage import KINDS, added
from finetune_training.contract.run import MemoryStatus
from tests.unit.operator.worlds import NOW, Object, books, job, time, world

ORDER: tuple[str, ...] = tuple(ConditionType)

TRAINING = Picture(
    phase="Training",
    facts={"Training": Fact(True, "Training", "Attempt 1 is running."), "Accepted": Fact(True, "Valid")},
    attempt=1,
    ray_job_name="plays-1",
    start=NOW,
)


def rendered(picture: Picture, old: Object | None = None, *, generation: int = 1, now: float = NOW) -> Object:
    before = FineTuneJobStatus.model_validate(old or {})
    return render_status(before, picture, generation=generation, now=now).to_json()


def test_a_status_has_what_is_so_and_nothing_else() -> None:
    assert rendered(TRAINING) == {
        "observedGeneration": 1,
        "phase": "Training",
        "attempt": 1,
        "rayJobName": "plays-1",
        "startTime": time(NOW),
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": time(NOW),
                "observedGeneration": 1,
            }
            for kind, reason, message in (
                ("Accepted", "Valid", ""),
                ("Training", "Training", "Attempt 1 is running."),
            )
        ],
    }


def test_everything_has_its_field_in_the_schema() -> None:
    failure = {"class": "User", "reason": "x", "message": "y", "pod": "p", "node": "n", "rank": 0}
    facts = {kind: Fact(True, "x") for kind in ORDER}
    entry = {
        "attempt": 1, "class": "Hang", "reason": "x", "message": "y", "rank": 0, "startTime": time(NOW), "endTime": time(NOW),
        "resumedFromStep": 1, "step": 3, "checkpointStep": 2, "lostSteps": 1, "restarts": 0, "logs": "s3://runs/1",
    }  # fmt: skip
    current = {
        "startTime": time(NOW), "pauseSeconds": 9, "waitingSince": time(NOW), "scheduledTime": time(NOW),
        "runningTime": time(NOW), "gpuSeconds": 4, "logs": "s3://runs/2",
    }  # fmt: skip
    usage = added(None, dict.fromkeys(KINDS, 1.0), total=8, gpu_seconds=8).to_json()
    memory = {"rung": 1, "microBatchSize": 1, "gradientCheckpointing": True, "offload": "None", "stage": 3}
    told = books((entry,), usage, current)
    last = LastFailure.model_validate(failure | {"log": "z"})
    whole = Picture("Failed", facts, 2, 1, 1, "plays-2", NOW, NOW, NOW, last, told, MemoryStatus.model_validate(memory))
    status = rendered(whole)
    read = FineTuneJobStatus.model_validate(status, extra="forbid")
    assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == status
    assert status["attempts"] == [entry]
    assert (status["current"], status["usage"], status["memory"]) == (current, usage, memory)
    assert status["failure"] == failure | {"log": "z"}


def test_conditions_have_one_order_and_those_that_are_not_so_any_more_go() -> None:
    facts = {kind: Fact(True, "x") for kind in reversed(ORDER)}
    status = rendered(Picture("Failed", facts))
    assert tuple(each["type"] for each in status["conditions"]) == ORDER
    assert [each["type"] for each in rendered(TRAINING, status)["conditions"]] == ["Accepted", "Training"]


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    old = rendered(TRAINING)
    later = {"Training": Fact(True, "Evaluating", "other words")}
    same = rendered(Picture("Evaluating", later), old, now=NOW + 60, generation=2)["conditions"][0]
    assert same["lastTransitionTime"] == time(NOW)
    assert (same["reason"], same["message"], same["observedGeneration"]) == ("Evaluating", "other words", 2)
    turned = rendered(Picture("Pending", {"Training": Fact(False, "Retrying")}), old, now=NOW + 60)["conditions"][0]
    assert (turned["status"], turned["lastTransitionTime"]) == ("False", time(NOW + 60))


def test_a_message_is_as_long_as_the_schema_allows() -> None:
    status = rendered(Picture("Pending", {"Training": Fact(False, "x", "m" * 5000)}))
    assert len(status["conditions"][0]["message"]) == 2048


def test_times_are_whole_seconds() -> None:
    assert rendered(Picture("Pending", start=0.9))["startTime"] == "1970-01-01T00:00:00Z"


def test_the_same_picture_is_written_once() -> None:
    status = rendered(TRAINING)
    assert not is_written(world(job()), status)
    stored = world(job(status=status | {"run": {"attempt": 1, "stage": "Training"}}))
    assert is_written(stored, rendered(TRAINING, status, now=NOW + 60))
    assert not is_written(stored, rendered(TRAINING, status, generation=2))
