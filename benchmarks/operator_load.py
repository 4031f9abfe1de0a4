"""What is done to the jobs of one namespace: users create them, and KubeRay's stand-in turns their RayJobs to Running.

In: names. Out: requests. Of a RayJob that KubeRay leaves untouched for too long the operator says so, by a write. On a slow
machine 10,000 jobs take longer than that, so the stand-in takes up (`Initializing`) each RayJob that is half as old.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.operator_clients import CLIENTS, METADATA, Api, Refused, create_job, rayjobs_path
from benchmarks.operator_recorder import RUNNING
from benchmarks.operator_requests import ATTEMPT
from benchmarks.waiting import STILL, within
from finetune_operator import names
from finetune_operator.decide.pending import TAKEN_UP_WITHIN

_PATCH = "application/merge-patch+json"
_TAKE_UP_AFTER = TAKEN_UP_WITHIN / 2


class Load:
    """`writes` counts all requests, `taken_up` those that a fast machine needs none of."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self._uids: dict[str, str] = {}
        self._untouched: dict[str, float] = {}
        self._taking: dict[str, asyncio.Event] = {}
        self.writes = self.taken_up = 0

    async def create(self, name: str) -> str:
        """As a user. Returns the job's uid."""
        uid = self._uids[name] = await create_job(self._api, self._namespace, name)
        self._untouched[name] = time.monotonic()
        self.writes += 1
        return uid

    async def turn(self, name: str) -> str:
        """What KubeRay says when the driver has started. Returns the job's uid."""
        self._untouched.pop(name, None)
        if name in self._taking:
            await within(STILL, f"the RayJob of {name} to be taken up", self._taking[name].wait())
        await self._say(name, RUNNING)
        return self._uids[name]

    async def take_up(self) -> None:
        """For ever, the oldest first."""
        while True:
            name, since = next(iter(self._untouched.items()), ("", time.monotonic()))
            if time.monotonic() - since < _TAKE_UP_AFTER:
                await asyncio.sleep(1)
                continue
            del self._untouched[name]
            done = self._taking[name] = asyncio.Event()
            try:
                await self._say(name, {"jobDeploymentStatus": "Initializing"})
                self.taken_up += 1
            except Refused:  # there is no RayJob yet
                self._untouched[name] = time.monotonic()
            finally:
                del self._taking[name]
                done.set()

    async def _say(self, name: str, status: dict[str, str]) -> None:
        path = f"{rayjobs_path(self._namespace)}/{names.child_name(name, ATTEMPT)}/status"
        await self._api.send("PATCH", path, json.dumps({"status": status}).encode(), _PATCH, METADATA)
        self.writes += 1


@asynccontextmanager
async def load_of(api: Api, namespace: str) -> AsyncIterator[Load]:
    """With the stand-in at work until the block ends: if it fails, the block does."""
    load = Load(api, namespace)
    async with asyncio.TaskGroup() as tasks:
        stand_in = [tasks.create_task(load.take_up()) for _ in range(CLIENTS)]
        yield load
        for task in stand_in:
            task.cancel()
