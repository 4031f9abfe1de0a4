"""The bodies of the operator's writes for one job, made by its own modules, as templates for the floor.

In: a FineTuneJob as the API server has it. Out: JSON texts with `$NAMESPACE`, `$JOB`, `$UID` and `$RAYJOB` in them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from finetune_operator.cluster import Cluster
from finetune_operator.execute import Executor
from finetune_operator.reconcile import decide
from finetune_operator.settings import Settings, read_platform
from finetune_operator.store import Store
from finetune_operator.views import view_job, view_rayjob
from finetune_operator.world import look

Body = Mapping[str, Any]


class _Recorder:
    """An API server that says yes, and keeps what it was told."""

    def __init__(self, job: Body) -> None:
        self._job, self.said = job, dict[str, Body]()
        self._made = {"uid": "$RAYJOB", "resourceVersion": "1", "creationTimestamp": "2000-01-01T00:00:00Z"}

    async def get(self, path: str, namespace: str, resource: str, name: str, *, subresource: str = "") -> Body:
        return self._job

    async def create(self, path: str, namespace: str, resource: str, body: Body) -> Body:
        self.said[resource] = body
        return {**body, "metadata": body["metadata"] | self._made}

    async def apply(self, path: str, namespace: str, resource: str, body: Body, *, subresource: str = "") -> Body:
        # The floor reads nothing, so it knows no version.
        self.said[resource] = {
            **body,
            "metadata": {k: v for k, v in body["metadata"].items() if k != "resourceVersion"},
        }
        version = str(int(self._job["metadata"]["resourceVersion"]) + len(self.said))
        return {"metadata": {"resourceVersion": version, "generation": 1}}


async def templates(live: Body, platform: Path) -> dict[str, str]:
    """`rayjob`, `configMap` and `pending` of the start, `running` and `event` of the turn to Running."""
    job = {**live, "metadata": live["metadata"] | {"namespace": "$NAMESPACE", "name": "$JOB", "uid": "$UID"}}
    settings = Settings(platform=read_platform(platform))
    recorder, store = _Recorder(job), Store()
    executor = Executor(cast(Cluster, recorder), store, settings)
    view = view_job(job)
    store.put(view)
    await _reconcile(executor, store, view.key, settings)
    start = dict(recorder.said)
    rayjob = start["rayjobs"]
    running = {**rayjob, "status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}}
    made = {"uid": "$RAYJOB", "resourceVersion": "9", "creationTimestamp": "2000-01-01T00:00:00Z"}
    store.put(view_rayjob({**running, "metadata": rayjob["metadata"] | made}))
    await _reconcile(executor, store, view.key, settings)
    found = {
        "rayjob": rayjob,
        "configMap": start["configmaps"],
        "pending": start["finetunejobs"],
        "running": recorder.said["finetunejobs"],
        "event": recorder.said["events"],
    }
    return {name: json.dumps(body) for name, body in found.items()}


async def _reconcile(executor: Executor, store: Store, key: str, settings: Settings) -> None:
    world = look(store.seen(key), time.time())
    assert world
    for effect in decide(world, settings.platform).effects:
        await executor.execute(effect, world.job)
