from __future__ import annotations

from dataclasses import replace

from finetune_training.events.progress import CheckpointSaved, Evaluated, Event, Restarted, Stage, StageStarted, Step
from finetune_training.events.usage import Usage, spent


def step(number: int, seconds: float = 2.0) -> Step:
    return Step(number, 10, 0.1, 1.0, 1e-3, 1.0, 10, 5, seconds, 10.0, 5.0)


def at(event: Event, time: float) -> Event:
    return replace(event, time=time)


def stage(name: Stage, at: float) -> StageStarted:
    return StageStarted(name, time=at)


def after(*events: Event) -> Usage:
    usage = Usage()
    for event in events:
        usage = usage.after(event)
    return usage


BEGINNING = (
    stage(Stage.PREPARING, 100.0),
    stage(Stage.PREPARING, 103.0),  # it goes on
    stage(Stage.STARTING, 110.0),
    stage(Stage.EVALUATING, 130.0),
    Evaluated(0, 4.0, 50.0, 10, True, 5.0),
    stage(Stage.TRAINING, 135.0),
)


def test_every_second_is_of_one_kind() -> None:
    usage = after(
        *BEGINNING, step(1), step(2), CheckpointSaved(2, "", 1, 0.5), step(3), stage(Stage.EXPORTING, 150.0),
        stage(Stage.SUCCEEDED, 153.0),
    )  # fmt: skip
    assert usage.to_json(1000.0) == {
        "preparing": 10.0, "starting": 20.0, "training": 6.0, "evaluating": 5.0, "exporting": 3.0, "checkpointing": 0.5,
        "sinceCheckpoint": 2.0,
    }  # fmt: skip


def test_the_stage_under_way_counts_up_to_now() -> None:
    assert after(*BEGINNING[:3]).to_json(117.0)["starting"] == 7.0
    assert after(*BEGINNING[:3]).to_json(90.0).get("starting") is None  # a clock that goes back


def test_a_checkpoint_that_is_committed_late_covers_only_its_own_steps() -> None:
    usage = after(*BEGINNING, step(1), step(2), step(3), CheckpointSaved(2, "", 1, 0.0), step(4))
    assert usage.since_checkpoint == 4.0


def test_steps_that_are_done_again_were_lost() -> None:
    usage = after(*BEGINNING, step(1), CheckpointSaved(1, "", 1, 0.0), step(2), step(3), Restarted(1, ""), step(2))
    found = usage.to_json(0.0)
    assert (found["training"], found["lost"], found["sinceCheckpoint"]) == (4.0, 4.0, 2.0)


def test_the_time_of_a_run_is_that_of_its_attempts_and_of_what_lies_between() -> None:
    killed = [*BEGINNING, at(step(1), 138.0), at(step(2), 140.0), at(CheckpointSaved(1, "", 1, 0.5), 141.0)]
    again = [
        stage(Stage.PREPARING, 201.0), stage(Stage.STARTING, 202.0), stage(Stage.TRAINING, 222.0),
        at(step(2), 224.0), at(step(3), 226.0), stage(Stage.EXPORTING, 227.0),
    ]  # fmt: skip
    found = spent([*((1, event) for event in killed), *((2, event) for event in again)], now=230.0)
    assert found == {
        "preparing": 11.0, "starting": 40.0, "training": 6.0, "evaluating": 5.0, "exporting": 3.0, "checkpointing": 0.5,
        "lost": 2.0, "between": 60.0, "other": 2.5,
    }  # fmt: skip
    assert sum(found.values()) == 230.0 - 100.0


def test_a_run_without_events_has_spent_nothing() -> None:
    assert set(spent([], now=5.0).values()) == {0.0}
