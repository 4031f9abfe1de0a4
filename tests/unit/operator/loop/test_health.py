"""When the operator says that it must be restarted. What the controller does is in tests/integration/test_operator_crashes.py."""

from __future__ import annotations

import asyncio
import time

import pytest
from kubernetes.aio import client

from finetune_operator.act.apiserver import ApiServer
from finetune_operator.loop.controller import STUCK_SECONDS, Controller
from finetune_operator.loop.metrics import Metrics
from finetune_operator.loop.workqueue import WorkQueue
from finetune_operator.observe.store import Store
from finetune_operator.settings import Settings


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def _unwell(*, taken: bool, seconds: float) -> str:
    """Of an operator that has one job, which is being worked on or waits."""
    clock, store = _Clock(), Store()
    queue = WorkQueue(clock)
    async with client.ApiClient(client.Configuration()) as api:
        server = ApiServer(api, lambda _method, _resource, _status: None)
        controller = Controller(server, Settings(), Metrics(store, queue), store, queue)
        controller._resynced = time.monotonic()  # it works: a replica that waits for its Lease is always well
        queue.add("default/job")
        if taken:
            await queue.get()
        clock.now = seconds
        return controller.unwell


@pytest.mark.parametrize(
    ("taken", "seconds", "problem"),
    [
        (True, STUCK_SECONDS - 1, ""),
        (True, STUCK_SECONDS + 1, "busy with one job"),
        (False, STUCK_SECONDS + 1, ""),
        (False, STUCK_SECONDS + 301, "has waited"),
    ],
    ids=["a long request", "a worker that is stuck", "a full queue", "a loop that is dead"],
)
def test_an_operator_is_unwell_when_nothing_moves(taken: bool, seconds: float, problem: str) -> None:
    said = asyncio.run(_unwell(taken=taken, seconds=seconds))
    assert problem in said
    assert bool(said) == bool(problem)
