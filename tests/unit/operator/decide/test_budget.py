"""Whether another attempt is made, and when."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.budget import BUDGETS, RETRIES_FOR_MEMORY, Verdict, judge
from finetune_operator.decide.outcome import AttemptFailure
from tests.unit.operator.worlds import Object, books, job, world
from tests.unit.operator.worlds import status as written


def past(attempt: int, cls: str = "Infrastructure", reason: str = "Collective", **more: Any) -> Object:
    return {"attempt": attempt, "class": cls, "reason": reason, "message": "It broke.", **more}


def driver(cls: str = "Infrastructure", reason: str = "Collective", **more: Any) -> AttemptFailure:
    return AttemptFailure(cls, reason, "It broke.", **{"repeats": True, **more})


def judged(
    failure: AttemptFailure, *attempts: Object, limit: int = 99, name: str = "plays", **counters: Any
) -> Verdict:
    """Of the last of `attempts`."""
    last = attempts[-1]["attempt"] if attempts else 1
    body = job(name, status=written("Training", last, **counters), backoffLimit=limit)
    return judge(world(body), failure, books(attempts or [past(1, failure.cls, failure.reason)]).attempts)


@pytest.mark.parametrize(
    ("cls", "failed", "out_of_memory", "goes_on"),
    [
        ("User", 1, 0, False),
        ("Data", 1, 0, False),
        ("Preempted", 0, 0, True),
        ("OutOfMemory", 0, 1, True),
        ("Infrastructure", 1, 0, True),
        ("Hang", 1, 0, True),
        ("Interrupted", 1, 0, True),
        ("Fenced", 1, 0, True),
        ("Unknown", 1, 0, True),
        ("AClassOfTomorrow", 1, 0, True),
    ],
)
def test_what_another_attempt_is_paid_from(cls: str, failed: int, out_of_memory: int, goes_on: bool) -> None:
    verdict = judged(AttemptFailure(cls, "X", "x"))
    assert (verdict.failed, verdict.out_of_memory, verdict.pause is not None) == (failed, out_of_memory, goes_on)


def test_every_class_has_its_budget() -> None:
    assert len(BUDGETS) == 9


# ── how often ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limit", "before", "goes_on"), [(0, 0, False), (1, 0, True), (1, 1, False), (3, 2, True), (1, 5, False)]
)
def test_attempts_that_count_are_bounded_by_the_backoff_limit(limit: int, before: int, goes_on: bool) -> None:
    verdict = judged(driver(), past(before + 1), limit=limit, failed=before)
    assert (verdict.pause is not None) is goes_on
    number = f"{before + 1} attempt{'s' if before else ''} failed, as many as spec.backoffLimit allows."
    assert verdict.why == ("" if goes_on else f" {number}")


def test_preemption_goes_on_for_ever_and_with_the_shortest_pause() -> None:
    history = [past(number, "Preempted", "PodDisrupted") for number in range(1, 11)]
    verdict = judged(AttemptFailure("Preempted", "PodDisrupted", "x"), *history, limit=0)
    assert verdict.pause is not None
    assert verdict.pause < 13
    assert verdict.failed == 0


def test_memory_is_asked_for_less_of_six_times() -> None:
    worker = AttemptFailure("OutOfMemory", "OOMKilled", "x", pod="p")
    assert judged(worker, limit=0, out_of_memory=RETRIES_FOR_MEMORY - 1).pause is not None
    last = judged(worker, out_of_memory=RETRIES_FOR_MEMORY)
    assert last.pause is None
    assert last.why == " 7 attempts ended so, each with less memory asked for than the one before."


def test_a_driver_that_is_out_of_memory_has_tried_all() -> None:
    verdict = judged(AttemptFailure("OutOfMemory", "OutOfMemory", "x", last=True))
    assert (verdict.pause, verdict.why) == (None, " The driver has tried all it can.")


def test_a_head_without_memory_is_not_tried_again() -> None:
    verdict = judged(AttemptFailure("OutOfMemory", "OOMKilled", "Raise it.", pod="p", last=True))
    assert (verdict.pause, verdict.why) == (None, "")


# ── when ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def store(number: int, **more: Any) -> Object:
    return past(number, reason="StoreUnavailable", **more)


STORE = driver(reason="StoreUnavailable", repeats=False)


@pytest.mark.parametrize(
    ("failures", "shortest"), [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 320), (7, 360), (10, 360)]
)
def test_the_pause_doubles_with_each_failure_that_counts(failures: int, shortest: int) -> None:
    pause = judged(STORE, *(store(number) for number in range(1, failures + 1))).pause
    assert pause is not None
    assert shortest <= pause <= shortest * 1.25


def test_the_pause_is_the_same_each_time_and_another_for_each_job_and_attempt() -> None:
    def pause(uid: str, attempt: int) -> float | None:
        body = job(uid=uid, status=written("Training", attempt), backoffLimit=99)
        return judge(world(body), STORE, books(store(number) for number in range(1, attempt + 1)).attempts).pause

    assert pause("a", 8) == pause("a", 8)
    assert len({pause(uid, 8) for uid in "abcdefgh"}) > 5
    assert len({pause("a", attempt) for attempt in range(8, 16)}) > 5


def test_progress_takes_the_pause_back_to_the_first() -> None:
    history = [store(1), store(2, checkpointStep=5), store(3, checkpointStep=5), store(4, checkpointStep=6)]
    after_progress = judged(STORE, *history).pause
    assert after_progress
    assert after_progress < 13
    one_more = judged(STORE, *history, store(5, checkpointStep=6)).pause
    assert one_more
    assert 20 <= one_more <= 25


def test_attempts_that_do_not_count_do_not_double_the_pause() -> None:
    free = [past(2, "Preempted", "PodDisrupted"), past(3, "", "Suspended"), past(4, "OutOfMemory", "OOMKilled")]
    pause = judged(STORE, store(1), *free, store(5)).pause
    assert pause
    assert 20 <= pause <= 25


# ── the same twice ──────────────────────────────────────────────────────────────────────────────────────────────────

FIRST = past(1, rank=2, step=40, checkpointStep=30, message="Rank 2 at 0x7f3a: tensor 17 of plays-1-x7k2p-worker-abcde")
AGAIN = past(2, rank=2, step=40, checkpointStep=30, message="Rank 2 at 0x99ff: tensor 4 of plays-2-zzzzz-worker-12345")


def test_the_same_failure_twice_ends_the_job() -> None:
    verdict = judged(driver(), FIRST, AGAIN, failed=1)
    assert verdict.pause is None
    assert verdict.failed == 2
    assert verdict.why == " It failed the same way twice, at step 40, in attempts 1 and 2: another attempt cannot help."
    early = judged(driver(), past(3), past(4))
    assert (
        early.why
        == " It failed the same way twice, before its first step, in attempts 3 and 4: another attempt cannot help."
    )


@pytest.mark.parametrize("cls", ["Infrastructure", "Hang", "Unknown"])
def test_the_same_failure_twice_is_given_up_in_class(cls: str) -> None:
    assert judged(driver(cls), FIRST | {"class": cls}, AGAIN | {"class": cls}).pause is None


@pytest.mark.parametrize("cls", ["Preempted", "OutOfMemory", "Interrupted", "Fenced"])
def test_the_same_failure_twice_is_tried_again_in_class(cls: str) -> None:
    assert judged(driver(cls), FIRST | {"class": cls}, AGAIN | {"class": cls}).pause is not None


def test_what_is_not_the_jobs_doing_proves_nothing_by_happening_twice() -> None:
    assert judged(driver(repeats=False), FIRST, AGAIN).pause is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"class": "Hang"},
        {"reason": "WorkerLost"},
        {"rank": 3},
        {"step": 41},
        {"checkpointStep": 31},
        {"attempt": 3},
        {"message": "Something else."},
        {"message": AGAIN["message"] + " and more"},
    ],
    ids=str,
)
def test_a_failure_that_differs_in_one_thing_is_not_the_same_failure(changed: Object) -> None:
    assert judged(driver(), FIRST, AGAIN | changed).pause is not None


def test_a_checkpoint_that_is_older_is_no_progress() -> None:
    """The newest one was damaged."""
    assert judged(driver(), FIRST, AGAIN | {"checkpointStep": 20}).pause is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It took 1.5 s", "It took 12.25 s"),
        ("node 9f86d081884c7d659a2feaa0c55ad015", "node a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id 00000000-aaaa-bbbb-cccc-0123456789ab"),
        ("10.0.0.1:6379 refused", "10.0.0.23:43211 refused"),
        ("x" * 100 + " 7 " + "y" * 153, ("x" * 100 + " 1234567 " + "y" * 153)[:256]),
    ],
)
def test_words_are_the_same_but_for_what_varies(one: str, other: str) -> None:
    assert judged(driver(), FIRST | {"message": one}, AGAIN | {"message": other}).pause is None


def test_plain_words_are_not_ids() -> None:
    assert judged(driver(), FIRST | {"message": "the facade"}, AGAIN | {"message": "the effaced"}).pause is not None
