"""Who gives up says what it waited for, how long, and what it had seen."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import waiting
from benchmarks.waiting import Failed, GaveUp, Seen, end_of, limited, told, until, within


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE", 0.01)


def counting(*, upto: int) -> Iterator[Seen]:
    number = 0
    while True:
        number = min(number + 1, upto)
        yield Seen(False, f"{number} of 10 writes")


def test_what_comes_ends_the_wait() -> None:
    looks = iter([Seen(False, "0"), Seen(False, "1"), Seen(True, "2")])
    asyncio.run(until("two", lambda: next(looks), seconds=20))
    assert next(looks, None) is None


def test_what_does_not_come_is_named_with_what_did() -> None:
    looks = counting(upto=10**9)
    with pytest.raises(GaveUp, match=r"gave up after 0 s of waiting for ten writes\. Seen by then: \d+ of 10 writes$"):
        asyncio.run(until("ten writes", lambda: next(looks), seconds=0.1))


def test_nothing_new_is_not_waited_for_to_the_end() -> None:
    looks = counting(upto=3)
    with pytest.raises(GaveUp, match="3 of 10 writes; nothing new for 0 s"):
        asyncio.run(until("ten writes", lambda: next(looks), seconds=1000, still=0.1))


def test_what_is_awaited_has_a_limit() -> None:
    async def wait() -> None:
        await within(0.01, "an event", asyncio.Event().wait(), lambda: "3 of 4 jobs")

    with pytest.raises(GaveUp, match=r"waiting for an event\. Seen by then: 3 of 4 jobs"):
        asyncio.run(wait())


def test_a_block_has_a_limit_wherever_it_waits() -> None:
    with pytest.raises(GaveUp, match=r"waiting for a lock\. Seen by then: nothing"), limited(0.05, "a lock"):
        threading.Event().wait()
    with limited(0.05, "nothing"):
        pass
    time.sleep(0.1)  # the timer is off again


def test_a_person_reads_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, told("bench-operator"):
        raise ExceptionGroup("of tasks", [ExceptionGroup("of more", [Failed("one")]), Failed("two"), Failed("one")])
    assert ended.value.code == "bench-operator: one | two"


def test_a_fault_of_our_own_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), told("bench-operator"):
        raise ZeroDivisionError


def test_the_end_of_a_log_says_also_when_there_is_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert end_of(log) == f"{log} is not there"
    log.write_text("")
    assert end_of(log) == f"{log} is empty"
    log.write_text("1\n2\n3\n")
    assert end_of(log, lines=2) == f"{log} ends:\n2\n3"
