"""The operator's writes for one job, made by its own modules: what the floor repeats, and what the operator is waited for.

In: a FineTuneJob as the API server has it. Out: its `Life`. Verbs, paths, headers and bodies are kept where the operator hands
them to the network: what is written down here once more comes to differ, and then the floor is refused or the operator waited
for in vain.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from benchmarks.operator_requests import RAYJOB_UID, Life, Write, template
from finetune_operator import names
from finetune_operator.act.apiserver import ApiServer
from finetune_operator.act.execute import Executor
from finetune_operator.decide.reconcile import decide
from finetune_operator.observe.store import Store
from finetune_operator.observe.views import view_job, view_rayjob
from finetune_operator.observe.world import look
from finetune_operator.settings import Settings, read_platform

Body = Mapping[str, Any]
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
"""What KubeRay says of a RayJob whose driver has started."""
_MADE = {"uid": RAYJOB_UID, "resourceVersion": "1", "creationTimestamp": "2000-01-01T00:00:00Z"}


class _Recorder(ApiServer):
    """An API server that says yes, and keeps what it was told to write: the floor reads nothing."""

    def __init__(self, job: Body) -> None:
        self._job = job
        self.writes: list[Write] = []
        self.last: dict[str, Body] = {}
        """The last body of each resource."""

    async def _send(
        self,
        method: str,
        path: str,
        resource: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
        accept: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> bytes:
        if method == "GET":
            return json.dumps(self._job).encode()
        assert body is not None, f"{method} {path} has no body: the floor cannot repeat it"
        # Whoever reads nothing knows no version.
        metadata = {name: value for name, value in body["metadata"].items() if name != "resourceVersion"}
        text, url = json.dumps({**body, "metadata": metadata}), f"{path}?{urlencode(query)}" if query else path
        self.writes.append(Write(method, resource, template(url), template(text), kind, accept))
        self.last[resource] = body
        version = str(int(self._job["metadata"]["resourceVersion"]) + len(self.writes))
        made = _MADE if method == "POST" else {"resourceVersion": version, "generation": 1}
        return json.dumps({**body, "metadata": metadata | made}).encode()


async def life_of(live: Body, platform: Path) -> Life:
    """Of a job like this one."""
    job = {**live, "metadata": live["metadata"] | {"namespace": "$NAMESPACE", "name": "$JOB", "uid": "$UID"}}
    settings = Settings(platform=read_platform(platform))
    recorder, store = _Recorder(job), Store()
    executor = Executor(recorder, store, settings)
    view = view_job(job)
    store.put(view)
    await _reconcile(executor, store, view.key, settings)
    start, rayjob = len(recorder.writes), recorder.last[names.RAYJOBS]
    store.put(
        view_rayjob({**rayjob, "status": RUNNING, "metadata": rayjob["metadata"] | _MADE | {"resourceVersion": "9"}})
    )
    await _reconcile(executor, store, view.key, settings)
    phase = recorder.last[names.PLURAL]["status"]["phase"]
    return Life(tuple(recorder.writes[:start]), tuple(recorder.writes[start:]), phase)


async def _reconcile(executor: Executor, store: Store, key: str, settings: Settings) -> None:
    world = look(store.seen(key), time.time())
    assert world
    for effect in decide(world, settings.platform).effects:
        await executor.execute(effect, world.job)
