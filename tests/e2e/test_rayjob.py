"""The cluster does what the product needs of one: KubeRay runs a job with a head on the CPU pool and workers on GPUs."""

from __future__ import annotations

from pathlib import Path

import obstore
from obstore.store import S3Store

from images.build import IMAGES
from tests.cluster.addons import BUCKET
from tests.cluster.kubectl import Kubectl

_ENDED = {"Complete", "Failed", "ValidationFailed"}


def test_a_rayjob_trains_on_both_pools_and_writes_to_s3(kubectl: Kubectl, s3: S3Store) -> None:
    manifest = (Path(__file__).parent / "rayjob.yaml").read_text()
    kubectl.apply(manifest.replace("{training}", IMAGES[0].tag).replace("{prefix}", kubectl.namespace))
    running = kubectl.watch(
        "rayjob", "all-reduce", lambda job: job.get("status", {}).get("jobDeploymentStatus") == "Running", seconds=90
    )
    pools = {
        node["metadata"]["name"]: node["metadata"]["labels"].get("finetune.dev/pool")
        for node in kubectl.get("nodes")["items"]
    }
    pods = kubectl.get("pods", f"--selector=ray.io/cluster={running['status']['rayClusterName']}")["items"]
    placed = [(pod["metadata"]["labels"]["ray.io/node-type"], pools[pod["spec"]["nodeName"]]) for pod in pods]
    ended = kubectl.watch(
        "rayjob", "all-reduce", lambda job: job.get("status", {}).get("jobDeploymentStatus") in _ENDED, seconds=90
    )
    assert ended["status"]["jobStatus"] == "SUCCEEDED"
    assert sorted(placed) == [("head", "cpu"), ("worker", "gpu"), ("worker", "gpu")]
    written = {
        entry["path"]: bytes(obstore.get(s3, entry["path"]).bytes())
        for entry in obstore.list(s3, kubectl.namespace).collect()
    }
    assert [each.split(b" on ")[0] for each in written.values()] == [b"3.0", b"3.0"]
    assert len({each.split(b" on ")[1] for each in written.values()}) == 2, f"not on two pods: {written} ({BUCKET})"
