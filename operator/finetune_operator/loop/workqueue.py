"""Which jobs to look at, and when. After client-go's workqueue: https://pkg.go.dev/k8s.io/client-go/util/workqueue

In: keys. Out: each key to one worker at a time; a key that comes again meanwhile is handed out once more afterwards. Keys
that failed come back later and later.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0
"""Seconds."""


class WorkQueue:
    """For one event loop. `clock`: seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ready: deque[str] = deque()
        self._since: dict[str, float] = {}
        """When each ready key became so."""
        self._taken: dict[str, float] = {}
        """Keys that a worker has, and since when."""
        self._again: set[str] = set()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, int] = {}
        self._wanted = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def oldest(self) -> float:
        """Seconds for which the first ready key has waited."""
        return self._clock() - self._since[self._ready[0]] if self._ready else 0.0

    @property
    def longest(self) -> float:
        """Seconds for which a worker has had its key."""
        return max((self._clock() - since for since in self._taken.values()), default=0.0)

    def add(self, key: str) -> None:
        """Look at `key` soon."""
        if self._closed:
            return
        if key in self._taken:
            self._again.add(key)
        elif key not in self._since:
            self._ready.append(key)
            self._since[key] = self._clock()
            self._wanted.set()

    def add_after(self, key: str, seconds: float) -> None:
        """Look at `key` after `seconds`, or earlier if that was wanted before."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, seconds)
        earlier = self._later.get(key)
        if earlier:
            if earlier.when() <= due:
                return
            earlier.cancel()
        self._later[key] = loop.call_at(due, self._due, key)

    async def get(self) -> str | None:
        """The next key: the caller gives it back by `done`. None: the queue is closed."""
        while not self._ready:
            if self._closed:
                return None
            self._wanted.clear()
            await self._wanted.wait()
        key = self._ready.popleft()
        del self._since[key]
        self._taken[key] = self._clock()
        return key

    def done(self, key: str, *, failed: bool = False) -> float:
        """`key` was looked at. Failed: it comes back later each time. Returns the seconds until then, or 0."""
        del self._taken[key]
        delay = 0.0
        if failed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (failures - 1)) * random.uniform(0.75, 1.25)
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            if not failed:
                self.add(key)
        return delay

    def close(self) -> None:
        """Hand out nothing more."""
        self._closed = True
        self._ready.clear()
        self._since.clear()
        for handle in self._later.values():
            handle.cancel()
        self._later.clear()
        self._wanted.set()

    def _due(self, key: str) -> None:
        self._later.pop(key, None)
        self.add(key)
