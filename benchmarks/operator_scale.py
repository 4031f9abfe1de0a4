"""What the operator costs: 1,000 and 10,000 FineTuneJobs against a real etcd and API server, without KubeRay.

In: the programs in build/bin. Out: a table, and `operator.json` in the folder of the results. For each size a new API server; 16
clients create the jobs while the operator runs, and 16 turn their RayJobs to Running; then the operator is stopped and started
anew. Before and after it, half of the jobs each, the floor: a bare client makes the same writes for other jobs, created and
turned to Running in the same way. The floor's time counts for both halves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from pathlib import Path
from typing import Any

import yaml

from benchmarks.operator_clients import CLIENTS, connect, create_job, jobs_path
from benchmarks.operator_recorder import life_of
from benchmarks.operator_report import expectations, show
from benchmarks.operator_turns import Place, floor_turn, operator_turn, restart_turn
from benchmarks.waiting import gave_up, told
from finetune_operator import names
from finetune_operator.api import crd
from tests.cluster import control_plane, programs
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.cluster.steps import until as again_until

BUILD = Path(__file__).parents[1] / "build" / "bench"
_KUBERAY = "github.com/ray-project/kuberay/ray-operator"
_SERVED_SECONDS = 60.0
PLATFORM = """\
checkpointUri: s3://models/runs
gpuPools:
  a10g:
    nodeSelector: {gpu: a10g}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    gpusPerNode: 4
"""


def main() -> None:
    options = _arguments()
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    programs.build(programs.CONTROL_PLANE)
    report: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "clients": CLIENTS,
        "sizes": {str(jobs): measure(jobs, output) for jobs in options.jobs},
    }
    report["expectations"] = expectations(report["sizes"])
    (output / "operator.json").write_text(json.dumps(report, indent=2) + "\n")
    show(report)


def measure(jobs: int, output: Path) -> dict[str, Any]:
    """All of one size, on an API server of its own."""
    folder, log = output / "operator", output / "operator.log"
    control_plane.remove(folder)
    layout = control_plane.alone(folder)
    layout.save()
    log.unlink(missing_ok=True)
    try:
        control_plane.start_api(layout)
        _install(layout)
        return asyncio.run(_measure(layout, log, jobs))
    finally:
        control_plane.remove(folder)


def _install(layout: Layout) -> None:
    kubectl = Kubectl(layout.kubeconfig)
    rayjobs = programs.module_folder("kuberay", _KUBERAY) / "config" / "crd" / "bases" / "ray.io_rayjobs.yaml"
    for manifest in (rayjobs.read_text(), yaml.safe_dump(crd.definition())):
        kubectl.apply(manifest)
    wanted = {f"{names.RAYJOBS}.{names.RAY_GROUP}", f"{names.PLURAL}.{names.GROUP}"}
    for _ in again_until(_SERVED_SECONDS):  # `kubectl wait` fails where there is no condition yet
        served = kubectl("api-resources", "--no-headers", "--output=name").split()
        if wanted <= set(served):
            break
    else:
        what = f"the API server to serve {', '.join(sorted(wanted))}"
        raise gave_up(what, _SERVED_SECONDS, ", ".join(sorted(wanted & set(served))))
    for namespace in ("jobs", "before", "after", "sample"):
        kubectl("create", "namespace", namespace)


async def _measure(layout: Layout, log: Path, jobs: int) -> dict[str, Any]:
    settings = layout.folder / "platform.yaml"
    settings.write_text(PLATFORM)
    async with connect(layout.kubeconfig, CLIENTS) as api:
        await create_job(api, "sample", "sample")
        live = json.loads(await api.send("GET", f"{jobs_path('sample')}/sample", None))
        place = Place(layout, settings, log, await life_of(live, settings), jobs)
        halves = [await floor_turn(place, api, "before", jobs // 2)]
        found = await operator_turn(place, api)
        found["restart"] = await restart_turn(place)
        halves.append(await floor_turn(place, api, "after", jobs - jobs // 2))
    floor = {phase: {key: sum(half[phase][key] for half in halves) for key in halves[0][phase]} for phase in halves[0]}
    return {**found, "floor": floor, "floorHalves": halves}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=_size, nargs="+", default=[1000, 10_000], help="sizes, one after the other")
    parser.add_argument("--output", type=Path, default=BUILD, help="folder for results and logs (build/bench)")
    return parser.parse_args()


def _size(text: str) -> int:
    if (jobs := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"{text}: the floor takes half of the jobs twice, so there are 2 or more")
    return jobs


if __name__ == "__main__":
    with told("bench-operator"):
        main()
