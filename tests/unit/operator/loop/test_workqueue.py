"""Which jobs to look at, and when. Time is the test's: nothing sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from finetune_operator.loop.workqueue import WorkQueue


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock stands still until `ahead` moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 1000.0

    def time(self) -> float:
        return self.moment

    async def ahead(self, seconds: float) -> None:
        """What is due in that time happens, in order."""
        self.moment += seconds
        for _ in range(3):
            await asyncio.sleep(0)


Body = Callable[[WorkQueue, Loop], Awaitable[None]]


def run(body: Body) -> None:
    loop = Loop()

    async def test() -> None:
        await body(WorkQueue(loop.time), loop)

    try:
        loop.run_until_complete(test())
    finally:
        loop.close()


async def take(queue: WorkQueue) -> str | None:
    """The next key; nobody waits for it."""
    getting = asyncio.ensure_future(queue.get())
    for _ in range(3):
        await asyncio.sleep(0)
    if getting.done():
        return getting.result()
    getting.cancel()
    return "(waits)"


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.loop.workqueue.random.uniform", lambda low, high: (low + high) / 2)


def test_keys_come_in_order_and_each_once() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        for key in ("a", "b", "a"):
            queue.add(key)
        assert len(queue) == 2
        assert [await take(queue) for _ in range(3)] == ["a", "b", "(waits)"]

    run(body)


def test_a_worker_that_waits_is_woken() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        waiting = [asyncio.ensure_future(queue.get()) for _ in range(2)]
        await asyncio.sleep(0)
        queue.add("a")
        queue.add("b")
        assert sorted(str(each) for each in await asyncio.gather(*waiting)) == ["a", "b"]

    run(body)


def test_a_key_has_one_worker_and_what_comes_meanwhile_is_looked_at_once_more() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        queue.add("a")
        assert await take(queue) == "a"
        queue.add("a")
        queue.add("a")
        assert await take(queue) == "(waits)"
        queue.done("a")
        assert await take(queue) == "a"
        queue.done("a")
        assert await take(queue) == "(waits)"

    run(body)


def test_a_delayed_key_comes_in_its_time() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        queue.add_after("a", 10)
        await loop.ahead(9.9)
        assert await take(queue) == "(waits)"
        await loop.ahead(0.2)
        assert await take(queue) == "a"

    run(body)


@pytest.mark.parametrize(("first", "second"), [(10, 60), (60, 10)])
def test_of_two_delays_the_shorter_counts(first: float, second: float) -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        queue.add_after("a", first)
        queue.add_after("a", second)
        await loop.ahead(10.1)
        assert await take(queue) == "a"
        queue.done("a")
        await loop.ahead(100)
        assert await take(queue) == "(waits)"

    run(body)


def test_a_key_whose_delay_is_over_already_comes_at_once() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        queue.add_after("a", -5)
        await loop.ahead(0)
        assert await take(queue) == "a"

    run(body)


def test_a_key_that_fails_comes_back_later_and_later() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        queue.add("a")
        delays = []
        for _ in range(9):
            assert await take(queue) == "a"
            delays.append(queue.done("a", failed=True))
            await loop.ahead(delays[-1] - 0.01)
            assert await take(queue) == "(waits)"
            await loop.ahead(0.02)
        assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
        assert await take(queue) == "a"
        assert queue.done("a") == 0
        queue.add("a")
        assert await take(queue) == "a"
        assert queue.done("a", failed=True) == 0.5

    run(body)


def test_what_comes_while_a_key_fails_does_not_hurry_it() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        queue.add("a")
        assert await take(queue) == "a"
        queue.add("a")
        queue.done("a", failed=True)
        assert await take(queue) == "(waits)"
        await loop.ahead(0.51)
        assert await take(queue) == "a"
        queue.done("a")
        assert await take(queue) == "(waits)"

    run(body)


def test_a_queue_says_how_long_keys_and_workers_have_waited() -> None:
    async def body(queue: WorkQueue, loop: Loop) -> None:
        assert (queue.oldest, queue.longest) == (0, 0)
        queue.add("a")
        await loop.ahead(3)
        queue.add("b")
        assert queue.oldest == 3
        assert await take(queue) == "a"
        await loop.ahead(2)
        assert (queue.oldest, queue.longest) == (2, 2)
        queue.done("a")
        assert queue.longest == 0

    run(body)


def test_a_closed_queue_hands_out_nothing_more() -> None:
    """A worker ends what it has; what comes meanwhile is for the next process."""

    async def body(queue: WorkQueue, loop: Loop) -> None:
        waiting = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        assert await waiting == "a"
        idle = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        queue.add_after("c", 1)
        queue.close()
        assert await idle is None
        queue.add("a")
        queue.add("b")
        queue.add_after("d", 0)
        queue.done("a", failed=True)
        await loop.ahead(100)
        assert len(queue) == 0
        assert await take(queue) is None

    run(body)
