"""Attempts told as one story: what counts in the end."""

from __future__ import annotations

import json
import math

from finetune_training.events.history import History, read_history
from finetune_training.events.progress import (
    Event,
    Inspected,
    Restarted,
    Resumed,
    Stage,
    StageStarted,
    Warned,
    as_record,
)
from finetune_training.events.specimen import Piece, Specimen
from tests.finished_run import evaluated, saved, step


def history(*events: Event) -> History:
    return read_history([json.loads(json.dumps(as_record(event))) for event in events])


def test_steps_that_repeat_after_a_resume_count_once_and_the_later_ones_count() -> None:
    first = [step(number, loss=5.0) for number in range(1, 8)]
    second = [step(number, loss=3.0) for number in range(6, 11)]
    found = history(*first, Resumed(5, "c"), *second)
    assert [(each.step, each.loss) for each in found.steps] == [
        *((number, 5.0) for number in range(1, 6)),
        *((number, 3.0) for number in range(6, 11)),
    ]


def test_a_resume_takes_away_the_evaluations_after_it() -> None:
    found = history(
        evaluated(0, 4.2, baseline=True),
        *(step(number) for number in range(1, 5)),
        evaluated(2, 4.0),
        evaluated(4, 9.0),
        Resumed(2, "c"),
        evaluated(0, 4.1, baseline=True),
        *(step(number) for number in range(3, 5)),
        evaluated(4, 3.9),
    )
    assert [(each.step, each.loss) for each in found.evaluations] == [(2, 4.0), (4, 3.9)]
    assert found.baseline is not None
    assert found.baseline.loss == 4.1


def test_a_run_started_anew_leaves_nothing_of_the_old_one() -> None:
    old = [step(number, loss=9.0) for number in range(1, 20)]
    found = history(*old, evaluated(10, 9.0), *(step(number, 3, loss=1.0) for number in range(1, 4)))
    assert [each.loss for each in found.steps] == [1.0, 1.0, 1.0]
    assert found.evaluations == []


def test_checkpoints_of_all_attempts_are_kept_in_order_of_their_steps() -> None:
    found = history(saved(10), saved(20), Resumed(10, "c"), saved(20, attempt=2), saved(20, attempt=2))
    assert [each.uri.rpartition("/")[2] for each in found.checkpoints] == [
        "step-00000010-a1",
        "step-00000020-a1",
        "step-00000020-a2",
    ]


def test_what_other_versions_wrote_is_passed_over() -> None:
    lines = [
        {"event": "Danced", "time": 1.0},
        {},
        {**as_record(step(1)), "addedLater": True},
        {**as_record(step(2)), "loss": None, "time": 7.0},
    ]
    found = read_history(lines)
    assert [each.step for each in found.steps] == [1, 2]
    assert math.isnan(found.steps[1].loss)
    assert found.ended == 7.0


def test_a_warning_is_kept_once() -> None:
    found = history(StageStarted(Stage.TRAINING), Warned("slow"), Warned("slow"), Warned("odd"))
    assert found.warnings == ["slow", "odd"]


def test_a_restart_of_the_ranks_is_a_warning_of_the_report() -> None:
    found = history(step(1), step(2), Restarted(1, "Rank 1 is gone."), Resumed(1, "r"), step(2))
    assert found.warnings == ["The ranks were started again: Rank 1 is gone."]
    assert [each.step for each in found.steps] == [1, 2]


def test_what_was_seen_before_a_run_is_kept_and_the_newest_look_counts() -> None:
    row = Specimen(
        "rows.jsonl:1", "f" * 16, "Text", 2, 1, (Piece("a", learnt=False), Piece("b", learnt=True)), ("cut",)
    )
    found = history(Inspected(("old",), time=1.0), Inspected(("new",), (row,), time=2.0), *(step(1),))
    assert found.inspected == Inspected(("new",), (row,), time=2.0)
    assert history(step(1)).inspected is None
