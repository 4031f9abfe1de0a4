"""The turns at one API server: of the floor, of the operator, and of the operator that is started anew.

In: a control plane that knows the CRDs, and how many jobs. Out: seconds, CPU seconds, memory and requests of each phase. Each
turn has a namespace of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.operator_clients import Api, by_clients, jobs_path
from benchmarks.operator_floor import Floor
from benchmarks.operator_load import load_of
from benchmarks.operator_process import READS, WRITES, OperatorProcess, Scrape
from benchmarks.operator_requests import Life, Phase, Request
from benchmarks.waiting import Failed, Seen, until
from finetune_operator.settings import Settings
from tests.cluster.layout import Layout
from tests.servers.s3 import free_ports

_VERBS = ("POST", "APPLY", "PATCH", "PUT", "DELETE")
"""Of writes, in the API server's own metrics."""
_ECHO = 2.0
"""Seconds for the events of the operator's own last writes."""
_START_SECONDS, _JOB_SECONDS = 120.0, 0.3
"""The most for a phase, of which each job adds its part: many times what it takes on two cores."""


@dataclass(frozen=True)
class Place:
    """Where the turns are taken."""

    layout: Layout
    platform: Path
    log: Path
    life: Life
    jobs: int

    @property
    def limit(self) -> float:
        """Seconds."""
        return _START_SECONDS + _JOB_SECONDS * self.jobs

    def operator(self) -> OperatorProcess:
        """A new one."""
        return OperatorProcess(self.layout.kubeconfig, self.platform, "jobs", free_ports(2), self.log)


async def floor_turn(place: Place, api: Api, namespace: str, jobs: int) -> dict[str, dict[str, float]]:
    """Seconds of each phase, and the bare client's CPU seconds."""
    found: dict[str, dict[str, float]] = {}
    written = place.layout.folder / "life.json"
    written.write_text(place.life.to_json())
    async with (
        Floor.started(place.layout.kubeconfig, namespace, Settings().workers, written) as floor,
        load_of(api, namespace) as load,
    ):

        async def create(name: str) -> None:
            floor.tell("start", name, await load.create(name))

        async def turn(name: str) -> None:
            floor.tell("running", name, await load.turn(name))

        phases: tuple[Phase, ...] = ("start", "running")
        for phase, work in zip(phases, (create, turn), strict=True):
            print(f"{namespace}: {phase}", file=sys.stderr, flush=True)
            began, cpu = time.monotonic(), floor.cpu_seconds
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(by_clients(_names(jobs), work))
                tasks.create_task(floor.done(phase, jobs))
            found[phase] = {
                "seconds": round(time.monotonic() - began, 3),
                "cpuSeconds": round(floor.cpu_seconds - cpu, 2),
            }
    return found


async def operator_turn(place: Place, api: Api) -> dict[str, Any]:
    """Start and Running, and what is left of it: memory, and the writes that the API server has counted."""
    with place.operator() as operator:
        await until(
            "the operator to look at everything once", operator.ready, seconds=place.limit, still=_START_SECONDS
        )
        idle, counted = operator.peak_megabytes, await _counted(place, api)
        async with load_of(api, "jobs") as load:
            start = await _phase(place, operator, "start", by_clients(_names(place.jobs), load.create))
            running = await _phase(place, operator, "running", by_clients(_names(place.jobs), load.turn))
        counted = await _counted(place, api) - counted - load.writes
        peak, began = operator.peak_megabytes, time.monotonic()
    await _verify(place, api)
    return {
        "start": start,
        "running": running,
        "idleMegabytes": round(idle, 1),
        "peakMegabytes": round(peak, 1),
        "writesByTheApiServer": counted,
        "takenUp": load.taken_up,
        "stopSeconds": round(time.monotonic() - began, 2),
    }


async def _phase(
    place: Place, operator: OperatorProcess, phase: Phase, work: Coroutine[Any, Any, None]
) -> dict[str, Any]:
    """Until the operator has made the wanted writes, or more, and nothing waits."""
    print(f"operator: {phase}", file=sys.stderr, flush=True)
    before, cpu, began = operator.scrape(), operator.cpu_seconds, time.monotonic()
    wanted = place.life.wanted(phase, place.jobs)

    def look() -> Seen:
        now = operator.scrape()
        return _progress(now - before, wanted, now.waiting)

    async with asyncio.TaskGroup() as tasks:  # when the work fails, so does the wait for what comes of it
        tasks.create_task(work)
        await until(f"the operator's writes for {place.jobs} jobs ({phase})", look, seconds=place.limit)
        seconds = time.monotonic() - began
    await asyncio.sleep(_ECHO)
    found = operator.scrape() - before
    return {
        "seconds": round(seconds, 2),
        "cpuSeconds": round(operator.cpu_seconds - cpu, 2),
        **_work(place, found),
    }


def _progress(found: Scrape, wanted: Mapping[Request, int], waiting: int) -> Seen:
    made = {request: found.requests([request]) for request in wanted}
    done = not waiting and all(made[request] >= count for request, count in wanted.items())
    parts = [f"{made[request]} of {count} {' '.join(request)}" for request, count in wanted.items()]
    return Seen(
        done, ", ".join([*parts, f"{waiting} jobs wait to be looked at, {found.refused} requests were refused"])
    )


async def restart_turn(place: Place) -> dict[str, Any]:
    """A new process over jobs that are as they should be: until it has looked at each, and nothing waits."""
    print("operator: restart", file=sys.stderr, flush=True)
    began = time.monotonic()
    with place.operator() as operator:
        await until("the operator to start again", operator.ready, seconds=place.limit, still=_START_SECONDS)

        def look() -> Seen:
            now = operator.scrape()
            words = f"{now.looks} looks at {place.jobs} jobs, {now.waiting} jobs wait to be looked at"
            return Seen(not now.waiting and now.looks >= place.jobs, words)

        await until("the new operator to look at each job", look, seconds=place.limit)
        seconds = time.monotonic() - began
        await asyncio.sleep(_ECHO)
        return {
            "seconds": round(seconds, 2),
            "cpuSeconds": round(operator.cpu_seconds, 2),
            "peakMegabytes": round(operator.peak_megabytes, 1),
            **_work(place, operator.scrape()),
        }


def _work(place: Place, found: Scrape) -> dict[str, Any]:
    of_jobs = [(method, resource) for method, _ in WRITES for resource in place.life.resources]
    return {
        "writes": found.requests(WRITES),
        "writesOfJobs": found.requests(of_jobs),
        "reads": found.requests(READS),
        "refused": found.refused,
        "reconciles": found.looks,
        "reconcileMilliseconds": {"p50": found.milliseconds(0.5), "p99": found.milliseconds(0.99)},
    }


async def _counted(place: Place, api: Api) -> int:
    """Writes of the resources at issue that the API server has answered with success since it began."""
    text = (await api.send("GET", "/metrics", None, accept="text/plain")).decode()
    total = 0.0
    for line in text.splitlines():
        if line.startswith("apiserver_request_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            ours = labels["verb"] in _VERBS and labels["resource"] in place.life.resources
            if ours and labels["code"].startswith("2"):
                total += float(line.split()[-1])
    return int(total)


async def _verify(place: Place, api: Api) -> None:
    """Whether each job says that its first attempt runs."""
    listed = json.loads(await api.send("GET", jobs_path("jobs"), None))["items"]
    phases = Counter(each.get("status", {}).get("phase") for each in listed)
    if phases != {place.life.phase: place.jobs}:
        raise Failed(f"not all of {place.jobs} jobs are {place.life.phase}: {dict(phases)}. See {place.log}.")


def _names(jobs: int) -> list[str]:
    return [f"job-{number:05}" for number in range(jobs)]
