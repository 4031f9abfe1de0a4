"""What the operator costs: 1,000 and 10,000 FineTuneJobs against a real etcd and API server, without KubeRay.

In: the programs in build/bin. Out: a table, and `build/bench/operator.json`. For each size a new API server; 16 clients create
the jobs while the operator runs, and 16 turn their RayJobs to Running; then the operator is stopped and started anew. Before
and after it, half of the jobs each, the floor: a bare client makes the same writes for other jobs, created and turned to
Running in the same way. The floor's time counts for both halves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import yaml
from operator_bodies import templates
from operator_clients import CLIENTS, Api, by_clients, connect, create_job, jobs_path
from operator_floor import Floor
from operator_load import load_of
from operator_process import READS, WRITES, OperatorProcess, Request, Scrape
from operator_report import expectations, show

from finetune_operator import crd
from finetune_operator.settings import Settings
from tests.cluster import control_plane, programs
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.cluster.steps import until
from tests.servers.s3 import free_ports

BUILD = Path(__file__).parents[1] / "build" / "bench"
_KUBERAY = "github.com/ray-project/kuberay/ray-operator"
PLATFORM = """\
checkpointUri: s3://models/runs
gpuPools:
  a10g:
    nodeSelector: {gpu: a10g}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    gpusPerNode: 4
"""
_START: tuple[Request, ...] = (("POST", "rayjobs"), ("PATCH", "configmaps"), ("PATCH", "finetunejobs"))
_RUNNING: tuple[Request, ...] = (("PATCH", "finetunejobs"), ("POST", "events"))
_VERBS, _WRITTEN = ("POST", "APPLY", "PATCH", "PUT", "DELETE"), ("rayjobs", "configmaps", "finetunejobs", "events")
_PAUSE, _ECHO, _PATIENCE = 0.5, 2.0, 1800.0
"""Seconds between two looks at the operator, for the events of its own last writes, and until it is given up."""


def main() -> None:
    sizes = _arguments().jobs
    BUILD.mkdir(parents=True, exist_ok=True)
    programs.build(programs.CONTROL_PLANE)
    report: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "clients": CLIENTS,
        "sizes": {str(jobs): measure(jobs) for jobs in sizes},
    }
    report["expectations"] = expectations(report["sizes"])
    (BUILD / "operator.json").write_text(json.dumps(report, indent=2) + "\n")
    show(report)


def measure(jobs: int) -> dict[str, Any]:
    """All of one size, on an API server of its own."""
    folder = BUILD / "operator"
    control_plane.remove(folder)
    layout = control_plane.alone(folder)
    layout.save()
    (BUILD / "operator.log").unlink(missing_ok=True)
    try:
        control_plane.start_api(layout)
        _install(layout)
        return asyncio.run(_measure(layout, jobs))
    finally:
        control_plane.remove(folder)


def _install(layout: Layout) -> None:
    kubectl = Kubectl(layout.kubeconfig)
    rayjobs = programs.module_folder("kuberay", _KUBERAY) / "config" / "crd" / "bases" / "ray.io_rayjobs.yaml"
    for manifest in (rayjobs.read_text(), yaml.safe_dump(crd.definition())):
        kubectl.apply(manifest)
    for _ in until(60):  # `kubectl wait` fails where there is no condition yet
        served = kubectl("api-resources", "--no-headers", "--output=name").split()
        if {"rayjobs.ray.io", "finetunejobs.finetune.dev"} <= set(served):
            break
    for namespace in ("jobs", "before", "after", "sample"):
        kubectl("create", "namespace", namespace)
    (layout.folder / "platform.yaml").write_text(PLATFORM)


async def _measure(layout: Layout, jobs: int) -> dict[str, Any]:
    async with connect(layout.kubeconfig, CLIENTS) as api:
        await create_job(api, "sample", "sample")
        live = json.loads(await api.send("GET", f"{jobs_path('sample')}/sample", None))
        bodies = await templates(live, layout.folder / "platform.yaml")
        (layout.folder / "bodies.json").write_text(json.dumps(bodies))
        halves = [await _floor(layout, api, "before", jobs // 2)]
        found = await _operator(layout, api, jobs)
        halves.append(await _floor(layout, api, "after", jobs - jobs // 2))
    floor = {phase: {key: sum(half[phase][key] for half in halves) for key in halves[0][phase]} for phase in halves[0]}
    return {**found, "floor": floor, "floorHalves": halves}


async def _floor(layout: Layout, api: Api, namespace: str, jobs: int) -> dict[str, dict[str, float]]:
    """Seconds of each phase, and the bare client's CPU seconds."""
    found: dict[str, dict[str, float]] = {}
    bodies = layout.folder / "bodies.json"
    async with (
        Floor.started(layout.kubeconfig, namespace, Settings().workers, bodies) as floor,
        load_of(api, namespace) as load,
    ):

        async def create(name: str) -> None:
            floor.tell("start", name, await load.create(name))

        async def turn(name: str) -> None:
            floor.tell("running", name, await load.turn(name))

        for phase, work in (("start", create), ("running", turn)):
            print(f"{namespace}: {phase}", file=sys.stderr, flush=True)
            began, cpu = time.monotonic(), floor.cpu_seconds
            await asyncio.gather(by_clients(_names(jobs), work), floor.done(jobs))
            found[phase] = {
                "seconds": round(time.monotonic() - began, 2),
                "cpuSeconds": round(floor.cpu_seconds - cpu, 2),
            }
    return found


async def _operator(layout: Layout, api: Api, jobs: int) -> dict[str, Any]:
    with OperatorProcess(layout.folder, layout.kubeconfig, "jobs", free_ports(2)) as operator:
        await _until(operator.ready)
        idle, counted = operator.peak_megabytes, await _counted(api)
        async with load_of(api, "jobs") as load:
            start = await _phase(operator, by_clients(_names(jobs), load.create), dict.fromkeys(_START, jobs))
            running = await _phase(operator, by_clients(_names(jobs), load.turn), dict.fromkeys(_RUNNING, jobs))
        counted = await _counted(api) - counted - load.writes
        peak, began = operator.peak_megabytes, time.monotonic()
    await _verify(api, jobs)
    return {
        "start": start,
        "running": running,
        "idleMegabytes": round(idle, 1),
        "peakMegabytes": round(peak, 1),
        "writesByTheApiServer": counted,
        "takenUp": load.taken_up,
        "stopSeconds": round(time.monotonic() - began, 2),
        "restart": await _restart(layout, jobs),
    }


async def _phase(
    operator: OperatorProcess, work: Coroutine[Any, Any, None], wanted: Mapping[Request, int]
) -> dict[str, Any]:
    """Until the operator has made the wanted writes, or more, and nothing waits."""
    print(f"operator: {', '.join(resource for _, resource in wanted)}", file=sys.stderr, flush=True)
    before, cpu, began = operator.scrape(), operator.cpu_seconds, time.monotonic()

    def done() -> bool:
        now = operator.scrape()
        return not now.waiting and all((now - before).requests([each]) >= count for each, count in wanted.items())

    working = asyncio.create_task(work)
    await _until(done)
    seconds = time.monotonic() - began
    await working
    await asyncio.sleep(_ECHO)
    found = operator.scrape() - before
    return {
        "seconds": round(seconds, 2),
        "cpuSeconds": round(operator.cpu_seconds - cpu, 2),
        **_work(found),
    }


async def _restart(layout: Layout, jobs: int) -> dict[str, Any]:
    """A new process over jobs that are as they should be: until it has looked at each, and nothing waits."""
    print("operator: restart", file=sys.stderr, flush=True)
    began = time.monotonic()
    with OperatorProcess(layout.folder, layout.kubeconfig, "jobs", free_ports(2)) as operator:
        await _until(operator.ready)

        def done() -> bool:
            now = operator.scrape()
            return not now.waiting and now.total("finetune_reconciles_total") >= jobs

        await _until(done)
        seconds = time.monotonic() - began
        await asyncio.sleep(_ECHO)
        return {
            "seconds": round(seconds, 2),
            "cpuSeconds": round(operator.cpu_seconds, 2),
            "peakMegabytes": round(operator.peak_megabytes, 1),
            **_work(operator.scrape()),
        }


def _work(found: Scrape) -> dict[str, Any]:
    return {
        "writes": found.requests(WRITES),
        "writesOfJobs": found.requests((method, resource) for method, _ in WRITES for resource in _WRITTEN),
        "reads": found.requests(READS),
        "refused": found.refused,
        "reconciles": int(found.total("finetune_reconciles_total")),
        "reconcileMilliseconds": {"p50": found.milliseconds(0.5), "p99": found.milliseconds(0.99)},
    }


async def _counted(api: Api) -> int:
    """Writes of the resources at issue that the API server has answered with success since it began."""
    text = (await api.send("GET", "/metrics", None, accept="text/plain")).decode()
    total = 0.0
    for line in text.splitlines():
        if line.startswith("apiserver_request_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if labels["verb"] in _VERBS and labels["resource"] in _WRITTEN and labels["code"].startswith("2"):
                total += float(line.split()[-1])
    return int(total)


async def _verify(api: Api, jobs: int) -> None:
    """Whether each job says that its first attempt runs."""
    listed = json.loads(await api.send("GET", jobs_path("jobs"), None))["items"]
    phases = Counter(each.get("status", {}).get("phase") for each in listed)
    if phases != {"Preparing": jobs}:
        raise SystemExit(f"Not every job is Preparing: {dict(phases)}. See build/bench/operator.log.")


async def _until(done: Callable[[], bool]) -> None:
    """Asked in a thread, so that the clients here go on."""
    deadline = time.monotonic() + _PATIENCE
    while not await asyncio.to_thread(done):
        if time.monotonic() > deadline:
            raise SystemExit(f"The operator is not done after {_PATIENCE:.0f} s. See build/bench/operator.log.")
        await asyncio.sleep(_PAUSE)


def _names(jobs: int) -> list[str]:
    return [f"job-{number:05}" for number in range(jobs)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 10_000], help="sizes, one after the other")
    return parser.parse_args()


if __name__ == "__main__":
    main()
