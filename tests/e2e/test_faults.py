"""Each fault happens, seen from the outside, and is undone: later tests rely on both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from images.build import IMAGES
from tests.cluster.faults import Faults
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import GPU
from tests.cluster.steps import Problem, until

pytestmark = pytest.mark.slow  # they are of the tests themselves; the product is tried with them in tests/e2e/faults
# It counts on its log, so that one can read there whether it lives and goes on; its child only lives.
_COUNTER = """
import itertools, subprocess, time
child = subprocess.Popen(["sleep", "100000"])
for number in itertools.count():
    print(number, flush=True)
    time.sleep(0.1)
"""
_POD = {
    "nodeSelector": {"finetune.dev/pool": "gpu"},
    "tolerations": [{"key": GPU, "operator": "Exists"}],
    "terminationGracePeriodSeconds": 1,
    "containers": [
        {
            "name": "counter",
            "image": IMAGES[0].tag,
            "command": ["python", "-c", _COUNTER],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi", GPU: 1}, "limits": {"memory": "256Mi", GPU: 1}},
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        }
    ],
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}],
}
_LABELS = {"app": "counter"}


@pytest.fixture
def counter(kubectl: Kubectl) -> str:
    """The name of a pod on gpu-1 that counts. A Deployment replaces it when it goes."""
    template = {"metadata": {"labels": _LABELS}, "spec": _POD}
    spec = {"selector": {"matchLabels": _LABELS}, "template": template}
    kubectl.apply(
        json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "counter"}, "spec": spec})
    )
    return _await_counter(kubectl)


def _await_counter(kubectl: Kubectl, *, other_than: str = "") -> str:
    """Wait for a pod that counts, and return its name."""
    for _ in until(90):
        for pod in kubectl.get("pods", "--selector=app=counter")["items"]:
            name = str(pod["metadata"]["name"])
            conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
            if name != other_than and conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
                return name
    raise AssertionError(kubectl("describe", "pods"))


def _number(kubectl: Kubectl, pod: str) -> int:
    return int(kubectl("logs", pod, "--tail=1"))


def _grows(number: Callable[[], int]) -> bool:
    """Whether a number grows in the next two seconds."""
    before = number()
    return any(number() > before for _ in until(2))


def _node_condition(kubectl: Kubectl, kind: str) -> str:
    node = kubectl.get("node", "gpu-1")
    return str(next(each["status"] for each in node["status"]["conditions"] if each["type"] == kind))


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_container_is_started_again(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    killed = faults.kill(counter)
    assert [each.command.split()[0] for each in killed] == ["python", "sleep"]
    restarted = kubectl.watch("pod", counter, lambda pod: _container(pod)["restartCount"] == 1, seconds=60)
    assert _container(restarted)["lastState"]["terminated"]["exitCode"] == 137
    kubectl.wait("condition=Ready", f"pod/{counter}")


def test_one_process_of_a_container_can_be_killed(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    assert len(faults.kill(counter, matching="sleep 100000")) == 1
    assert _grows(lambda: _number(kubectl, counter))
    with pytest.raises(Problem, match=r"no process with 'sleep 100000', only: .*python"):
        faults.kill(counter, matching="sleep 100000")
    assert _container(kubectl.get("pod", counter))["restartCount"] == 0


def test_a_frozen_container_stands_still_and_goes_on(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    with faults.frozen(counter) as stopped:
        assert len(stopped) == 2
        still = _number(kubectl, counter)
        assert not _grows(lambda: _number(kubectl, counter))
        assert _number(kubectl, counter) == still
    assert _grows(lambda: _number(kubectl, counter))


def _container(pod: dict[str, Any]) -> dict[str, Any]:
    status = pod["status"]["containerStatuses"][0]
    assert isinstance(status, dict)
    return status


# ── pods and nodes, by the API ───────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_pod_is_replaced(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    faults.delete(counter, grace_seconds=0)
    assert _await_counter(kubectl, other_than=counter)


def test_an_evicted_pod_is_told_so_and_replaced(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    # A finalizer keeps the object until its conditions are read.
    kubectl("patch", "pod", counter, '--patch={"metadata": {"finalizers": ["finetune.dev/test"]}}')
    faults.evict(counter)
    evicted = kubectl.get("pod", counter)
    kubectl("patch", "pod", counter, "--type=json", '--patch=[{"op": "remove", "path": "/metadata/finalizers"}]')
    reasons = {each["type"]: each["reason"] for each in evicted["status"]["conditions"] if "reason" in each}
    assert reasons["DisruptionTarget"] == "EvictionByEvictionAPI"
    assert _await_counter(kubectl, other_than=counter)


def test_a_drained_node_is_empty_until_the_end(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    with faults.drained("gpu-1"):
        assert kubectl.get("node", "gpu-1")["spec"]["unschedulable"] is True
        assert counter not in kubectl("get", "pods", "--output=name")
    assert "unschedulable" not in kubectl.get("node", "gpu-1")["spec"]
    assert _await_counter(kubectl, other_than=counter)


# ── nodes, by their processes and disks ──────────────────────────────────────────────────────────────────────────────


def test_a_lost_node_is_not_ready_and_comes_back(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    pids = [each.pid for each in faults.processes(counter)]
    with faults.lost("gpu-1"):
        assert _node_condition(kubectl, "Ready") == "Unknown"
        assert pids
        assert faults.processes(counter) == []
    assert _node_condition(kubectl, "Ready") == "True"
    assert kubectl.get("node", "gpu-1")["status"]["allocatable"][GPU] == "4"
    assert _await_counter(kubectl)


def test_s3_serves_the_moment_that_its_node_is_back(faults: Faults, s3_proxied: S3Store) -> None:
    obstore.put(s3_proxied, "kept on cpu-1", b"kept")
    with faults.lost("cpu-1"), pytest.raises(BaseError, match="error sending request"):
        obstore.get(s3_proxied, "kept on cpu-1")
    assert bytes(obstore.get(s3_proxied, "kept on cpu-1").bytes()) == b"kept"
    obstore.put(s3_proxied, "new on cpu-1", b"new")


def test_a_full_disk_is_pressure_until_it_is_emptied(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    with faults.disk_filled("gpu-1"):
        assert _node_condition(kubectl, "DiskPressure") == "True"
    assert _node_condition(kubectl, "DiskPressure") == "False"
    assert _await_counter(kubectl)


def test_a_full_shm_has_no_room(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    write = ["exec", counter, "--", "dd", "if=/dev/zero", "of=/dev/shm/more", "bs=1M", "count=4"]
    with faults.shm_filled(counter), pytest.raises(KubectlFailed, match="No space left on device"):
        kubectl(*write)
    kubectl(*write)


# ── what a job depends on ────────────────────────────────────────────────────────────────────────────────────────────


def test_kuberay_stops_and_comes_back(kubectl: Kubectl, faults: Faults) -> None:
    def ready() -> int:
        return int(
            kubectl.within("kuberay-system").get("deployment", "kuberay-operator")["status"].get("readyReplicas", 0)
        )

    with faults.without_kuberay():
        assert ready() == 0
    assert ready() == 1


def test_the_api_server_stops_and_pods_do_not_notice(kubectl: Kubectl, faults: Faults, counter: str) -> None:
    before = _number(kubectl, counter)
    with faults.without_api_server(), pytest.raises(KubectlFailed, match="refused"):
        kubectl.get("nodes")
    assert _container(kubectl.get("pod", counter))["restartCount"] == 0
    assert _number(kubectl, counter) > before


def test_s3_stops_and_keeps_what_it_held(faults: Faults, s3_proxied: S3Store) -> None:
    obstore.put(s3_proxied, "kept", b"kept")
    with faults.without_s3(), pytest.raises(BaseError):
        obstore.get(s3_proxied, "kept")
    assert bytes(obstore.get(s3_proxied, "kept").bytes()) == b"kept"


def test_s3_fails_as_it_is_told(faults: Faults, s3_proxied: S3Store) -> None:
    content = bytes(range(256)) * 1000
    with faults.s3_fails(status=503, methods="PUT", times=1):
        with pytest.raises(BaseError, match="503"):
            obstore.put(s3_proxied, "failing", content)
        obstore.put(s3_proxied, "failing", content)
        assert faults.s3_hits() == 1
    with faults.s3_fails(delay=1.5):
        began = time.monotonic()
        assert bytes(obstore.get(s3_proxied, "failing").bytes()) == content
        assert time.monotonic() - began > 1.5
    with faults.s3_fails(bytes_per_second=100_000):
        began = time.monotonic()
        assert bytes(obstore.get(s3_proxied, "failing").bytes()) == content
        assert time.monotonic() - began > 2
    for fault in ({"reset": True}, {"hang": True}, {"cut": 1000}):
        with faults.s3_fails(**fault), pytest.raises(BaseError):
            obstore.get(s3_proxied, "failing").bytes()
    assert bytes(obstore.get(s3_proxied, "failing").bytes()) == content
