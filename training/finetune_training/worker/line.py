"""The line from the ranks to the driver, and what is said on it.

In: each rank's messages, told one at a time. Out: all of them, in the order in which they came, and back to each rank whether to
stop. `Line` lives in a process of its own, as an actor; that it is one, only who starts it knows (launch.py).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from finetune_training.contract.failure import Failure
from finetune_training.events.progress import Report


@dataclass(frozen=True)
class Place:
    """Where a rank is: Ray's id of the node, its address for people, its process, and how many processes the kernel had
    killed there for want of memory when it began."""

    node: str
    address: str
    pid: int = 0
    kills: int = 0


@dataclass(frozen=True)
class RankPlaced:
    """A rank's first word."""

    rank: int
    place: Place


@dataclass(frozen=True)
class RankFailed:
    """A rank's last word."""

    failure: Failure
    traceback: str


LAST = None
Said = Report | RankPlaced | RankFailed | None


class Line:
    """Carries messages in order. Every message is answered with whether to stop."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Said] = asyncio.Queue()
        self._stopping = False

    async def tell(self, message: Said) -> bool:
        await self._messages.put(message)
        return self._stopping

    async def drain(self) -> list[Said]:
        """At least one message."""
        batch = [await self._messages.get()]
        while not self._messages.empty():
            batch.append(self._messages.get_nowait())
        return batch

    async def stop(self) -> None:
        self._stopping = True

    async def end(self) -> None:
        await self._messages.put(LAST)
