"""The line itself, as Ray runs it: one event loop, many callers."""

from __future__ import annotations

import asyncio

from finetune_training.events.progress import Trained
from finetune_training.worker.line import LAST, Line, Place, RankPlaced

FIRST, SECOND = RankPlaced(0, Place("n1", "10.0.0.1")), RankPlaced(1, Place("n2", "10.0.0.2"))


def test_messages_arrive_in_their_order_and_the_last_is_the_end() -> None:
    async def said() -> list[object]:
        line = Line()
        await line.tell(FIRST)
        await line.tell(SECOND)
        await line.end()
        return list(await line.drain())

    assert asyncio.run(said()) == [FIRST, SECOND, LAST]


def test_a_listener_waits_for_a_message() -> None:
    async def said() -> list[object]:
        line = Line()
        listening = asyncio.create_task(line.drain())
        await asyncio.sleep(0)
        assert not listening.done()
        await line.tell(FIRST)
        return list(await listening)

    assert asyncio.run(said()) == [FIRST]


def test_every_message_is_answered_with_whether_to_stop() -> None:
    async def answers() -> tuple[bool, bool]:
        line = Line()
        before = await line.tell(FIRST)
        await line.stop()
        return before, await line.tell(Trained(step=1, interrupted=True))

    assert asyncio.run(answers()) == (False, True)
