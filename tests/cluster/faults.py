"""Faults for the tests, each real and each undone: by the end of its `with` block, or by the cluster's own controllers.

Faults of pods and of the S3 server work on any cluster that kubectl reaches. Those of processes, nodes and the control
plane need a cluster of this machine (`make cluster-up`); elsewhere they raise NotHere, which tests take as a skip.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import control_plane, images, node
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout, Node
from tests.cluster.steps import until


class NotHere(Exception):
    """The fault needs a cluster whose processes are this machine's."""


@dataclass(frozen=True)
class Process:
    """A process of a container, by its number on this machine."""

    pid: int
    command: str


@dataclass(frozen=True)
class Faults:
    """What can be done to a cluster. `kubectl` has the namespace of the test; `layout` is None on a cluster of others."""

    kubectl: Kubectl
    layout: Layout | None

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def processes(self, pod: str, container: str = "") -> list[Process]:
        """The processes of a container (the pod's first, if none is named), the oldest first."""
        status = self.kubectl.get("pod", pod)
        states = status["status"]["containerStatuses"]
        state = next(each for each in states if not container or each["name"] == container)
        identity = state["containerID"].rpartition("/")[2]
        cgroup = next(self._cgroups(status["spec"]["nodeName"]).rglob(identity), None)
        if cgroup is None:
            return []
        pids = [int(line) for path in cgroup.rglob("cgroup.procs") for line in path.read_text().split()]
        return [Process(pid, command) for pid in sorted(pids) if (command := _command(pid))]

    def kill(self, pod: str, container: str = "", *, matching: str = "") -> list[Process]:
        """SIGKILL the processes of a container whose command line has `matching` in it; all, if it is empty."""
        return self._signal(signal.SIGKILL, pod, container, matching)

    @contextmanager
    def frozen(self, pod: str, container: str = "", *, matching: str = "") -> Iterator[list[Process]]:
        """SIGSTOP those processes, and SIGCONT at the end."""
        stopped = self._signal(signal.SIGSTOP, pod, container, matching)
        try:
            yield stopped
        finally:
            for each in stopped:
                _send(each, signal.SIGCONT)

    # ── pods and nodes, by the API ───────────────────────────────────────────────────────────────────────────────────

    def delete(self, pod: str, *, grace_seconds: int | None = None) -> None:
        """Delete a pod and wait until it is gone; with 0 seconds of grace its processes are killed at once."""
        grace = (
            []
            if grace_seconds is None
            else [f"--grace-period={grace_seconds}", *(["--force"] if grace_seconds == 0 else [])]
        )
        self.kubectl("delete", "pod", pod, "--wait", *grace)

    def evict(self, pod: str) -> None:
        """Evict a pod by the API, as a drain does: it gets its condition DisruptionTarget and its grace period."""
        namespace = self.kubectl.namespace
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        self.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(body))

    @contextmanager
    def drained(self, name: str, *, seconds: int = 120) -> Iterator[None]:
        """Drain a node, and let pods come again at the end."""
        try:
            flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={seconds}s"]
            self.kubectl("drain", name, *flags, timeout=seconds + 30)
            yield
        finally:
            self.kubectl("uncordon", name)

    # ── nodes, by their processes and disks ──────────────────────────────────────────────────────────────────────────

    @contextmanager
    def lost(self, name: str, *, seconds: int = 120) -> Iterator[None]:
        """End a node as if it lost its power; in the block it is NotReady. At the end it is back and Ready."""
        layout, target = self._local(), self._node(name)
        node.stop(layout, target)
        try:
            self.kubectl.wait("condition=Ready=Unknown", f"node/{name}", seconds=seconds)
            yield
        finally:
            node.start(layout, target, images.IMAGE_ROOT)

    @contextmanager
    def disk_filled(self, name: str, *, seconds: int = 60) -> Iterator[None]:
        """Fill the disk of a node's pods until it is under DiskPressure, and empty it again."""
        root = Path(f"/proc/{node.host_pid(self._local().folder, name)}/root/var/lib/kubelet")
        free = os.statvfs(root)
        filler = root / "filler"
        try:
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, int(free.f_bavail * free.f_frsize * 0.97))
            self.kubectl.wait("condition=DiskPressure", f"node/{name}", seconds=seconds)
            yield
        finally:
            filler.unlink(missing_ok=True)
            self.kubectl.wait("condition=DiskPressure=False", f"node/{name}", seconds=seconds)
            for _ in until(seconds):
                taints = self.kubectl.get("node", name)["spec"].get("taints", [])
                if not any(each["key"] == "node.kubernetes.io/disk-pressure" for each in taints):
                    break

    @contextmanager
    def shm_filled(self, pod: str, container: str = "") -> Iterator[None]:
        """Fill the /dev/shm of a container to the last byte, and empty it again."""
        into = ["exec", pod, *([f"--container={container}"] if container else []), "--"]
        self.kubectl(*into, "sh", "-c", "cat /dev/zero > /dev/shm/filler 2> /dev/null; test -s /dev/shm/filler")
        try:
            yield
        finally:
            self.kubectl(*into, "rm", "-f", "/dev/shm/filler")

    # ── what a job depends on ────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def without_kuberay(self) -> Iterator[None]:
        """No KubeRay for the length of the block."""
        with self._scaled_to_zero("kuberay-system", "kuberay-operator"):
            yield

    @contextmanager
    def without_s3(self) -> Iterator[None]:
        """No S3 server for the length of the block: its proxy resets every connection. What it holds is not lost."""
        with self._scaled_to_zero("storage", "s3"):
            yield

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """No API server for the length of the block: kubectl does not work in it either."""
        layout = self._local()
        control_plane.stop_api(layout)
        try:
            yield
        finally:
            control_plane.start_api(layout)

    @contextmanager
    def s3_fails(self, **fault: float | str | bool) -> Iterator[None]:
        """A fault of the S3 proxy (the fields of `tests.servers.s3_proxy.Fault`) for the length of the block."""
        self._tell_s3_proxy(fault)
        try:
            yield
        finally:
            self._tell_s3_proxy({})

    def s3_hits(self) -> int:
        """How many requests the present fault of the S3 proxy has hit."""
        return int(self._tell_s3_proxy(None)["hits"])

    # ── what these are made of ───────────────────────────────────────────────────────────────────────────────────────

    def _local(self) -> Layout:
        if self.layout is None:
            raise NotHere("this fault needs a cluster of this machine: run `make cluster-up` without KUBECONFIG")
        return self.layout

    def _node(self, name: str) -> Node:
        return next(each for each in self._local().nodes if each.name == name)

    def _cgroups(self, name: str) -> Path:
        # Every controller of version 1 has the same tree; version 2 has one.
        root = node.CGROUPS if (node.CGROUPS / "cgroup.controllers").exists() else node.CGROUPS / "pids"
        return root / self._node(name).cgroup.strip("/")

    def _signal(self, number: signal.Signals, pod: str, container: str, matching: str) -> list[Process]:
        chosen = [each for each in self.processes(pod, container) if matching in each.command]
        return [each for each in chosen if _send(each, number)]

    @contextmanager
    def _scaled_to_zero(self, namespace: str, deployment: str) -> Iterator[None]:
        kubectl = self.kubectl.within(namespace)
        labels = kubectl.get("deployment", deployment)["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        try:
            kubectl("scale", f"deployment/{deployment}", "--replicas=0")
            kubectl.wait("delete", "pod", f"--selector={selector}", seconds=60)
            yield
        finally:
            kubectl("scale", f"deployment/{deployment}", "--replicas=1")
            kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=120s")

    def _tell_s3_proxy(self, fault: dict[str, Any] | None) -> dict[str, Any]:
        post = [] if fault is None else [f"--post-data={json.dumps(fault)}"]
        into = ["exec", "deployment/s3-proxy", "--", "wget", "--quiet", "--output-document=-", "--tries=1", *post]
        answer = json.loads(self.kubectl.within("storage")(*into, "http://127.0.0.1:9000/"))
        assert isinstance(answer, dict)
        return answer


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def _send(process: Process, number: signal.Signals) -> bool:
    """Signal a process, unless it has ended."""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True
