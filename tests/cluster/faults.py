"""Faults for the tests, each real and each undone: by the end of its `with` block, or by the cluster's own controllers.

Faults of pods and of the S3 server work on any cluster that kubectl reaches. Those of processes, nodes and the control
plane need a cluster of this machine (`make cluster-up`); elsewhere they raise NotHere, which tests take as a skip.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.cluster import addons, control_plane, images, node
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout, Node
from tests.cluster.steps import Problem, until
from tests.servers.s3_proxy import Fault


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
        """The processes of a container (the pod's first, if none is named), the oldest first. Raises Problem if it does not
        run."""
        found = self.kubectl.get("pod", pod)
        container = container or found["spec"]["containers"][0]["name"]
        states = {each["name"]: each for each in found["status"].get("containerStatuses", [])}
        if "running" not in states.get(container, {}).get("state", {}):
            state = states.get(container, {}).get("state") or found["status"]["phase"]
            raise Problem(f"container {container} of pod {pod} does not run: {state}")
        identity = states[container]["containerID"].rpartition("/")[2]
        walk = os.walk(self._cgroups(found["spec"]["nodeName"]))
        pids = [pid for folder, _, _ in walk if identity in Path(folder).parts for pid in _pids(Path(folder))]
        return [Process(pid, command) for pid in sorted(pids) if (command := _command(pid))]

    def kill(self, pod: str, container: str = "", *, matching: str = "") -> list[Process]:
        """SIGKILL the processes of a container whose command line has `matching` in it; all, if it is empty. Raises Problem
        if there are none."""
        chosen = self._matching(pod, container, matching)
        return [each for each in chosen if _send(each, signal.SIGKILL)]

    @contextmanager
    def frozen(self, pod: str, container: str = "", *, matching: str = "") -> Iterator[list[Process]]:
        """SIGSTOP those processes, and SIGCONT at the end."""
        stopped: list[Process] = []
        try:
            # Again until none is new: one that was not stopped yet may have started others.
            while new := [each for each in self._matching(pod, container, matching) if each not in stopped]:
                stopped += [each for each in new if _send(each, signal.SIGSTOP)]
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
            addons.await_ready(self.kubectl)

    # ── nodes, by their processes and disks ──────────────────────────────────────────────────────────────────────────

    @contextmanager
    def lost(self, name: str, *, seconds: int = 120) -> Iterator[None]:
        """End a node as if it lost its power; in the block it is NotReady. At the end it is back and Ready."""
        layout, target = self._local(), self._node(name)
        try:
            node.stop(layout, target)
            self.kubectl.wait("condition=Ready=Unknown", f"node/{name}", seconds=seconds)
            yield
        finally:
            node.start(layout, target, images.IMAGE_ROOT)
            addons.await_ready(self.kubectl)

    @contextmanager
    def disk_filled(self, name: str, *, seconds: int = 60) -> Iterator[None]:
        """Fill the disk of a node's pods until it is under DiskPressure, and empty it again."""

        def filler() -> Path:  # by the process of now: the node may be started anew in the block
            return Path("/proc", str(node.host_pid(self._local().folder, name)), "root", "var/lib/kubelet/filler")

        try:
            free = os.statvfs(filler().parent)
            with filler().open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, int(free.f_bavail * free.f_frsize * 0.97))
            self.kubectl.wait("condition=DiskPressure", f"node/{name}", seconds=seconds)
            yield
        finally:
            filler().unlink(missing_ok=True)
            self.kubectl.wait("condition=DiskPressure=False", f"node/{name}", seconds=seconds)
            for _ in until(seconds):
                taints = self.kubectl.get("node", name)["spec"].get("taints", [])
                if not any(each["key"] == "node.kubernetes.io/disk-pressure" for each in taints):
                    break
            else:
                raise Problem(f"node {name} still has the taint of a full disk after {seconds} s")
            addons.await_ready(self.kubectl)

    @contextmanager
    def shm_filled(self, pod: str, container: str = "") -> Iterator[None]:
        """Fill the /dev/shm of a container to the last byte, and empty it again."""
        into = ["exec", pod, *([f"--container={container}"] if container else []), "--"]
        try:
            self.kubectl(*into, "sh", "-c", "cat /dev/zero > /dev/shm/filler 2> /dev/null; test -s /dev/shm/filler")
            yield
        finally:
            self.kubectl(*into, "rm", "-f", "/dev/shm/filler")

    # ── what a job depends on ────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def without_kuberay(self) -> Iterator[None]:
        """No KubeRay for the length of the block."""
        with self._scaled_to_zero(addons.KUBERAY, "kuberay-operator"):
            yield

    @contextmanager
    def without_s3(self) -> Iterator[None]:
        """No S3 server for the length of the block: its proxy resets every connection. What it holds is not lost."""
        with self._scaled_to_zero(addons.STORAGE, "s3"):
            yield

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """No API server for the length of the block: kubectl does not work in it either."""
        layout = self._local()
        try:
            control_plane.stop_api(layout)
            yield
        finally:
            control_plane.start_api(layout)

    @contextmanager
    def s3_fails(self, **fault: float | str | bool) -> Iterator[None]:
        """A fault of the S3 proxy (the fields of `tests.servers.s3_proxy.Fault`) for the length of the block."""
        wanted = asdict(Fault(**fault))  # type: ignore[arg-type]
        try:
            self._tell_s3_proxy(wanted)
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

    def _matching(self, pod: str, container: str, matching: str) -> list[Process]:
        found = self.processes(pod, container)
        chosen = [each for each in found if matching in each.command]
        if not chosen:
            raise Problem(f"pod {pod} has no process with {matching!r}, only: {[each.command for each in found]}")
        return chosen

    @contextmanager
    def _scaled_to_zero(self, namespace: str, deployment: str) -> Iterator[None]:
        kubectl = self.kubectl.within(namespace)
        before = kubectl.get("deployment", deployment)["spec"]
        selector = ",".join(f"{key}={value}" for key, value in before["selector"]["matchLabels"].items())
        try:
            kubectl("scale", f"deployment/{deployment}", "--replicas=0")
            kubectl.wait("delete", "pod", f"--selector={selector}", seconds=60)
            yield
        finally:
            kubectl("scale", f"deployment/{deployment}", f"--replicas={before['replicas']}")
            addons.await_ready(self.kubectl)

    def _tell_s3_proxy(self, fault: dict[str, Any] | None) -> dict[str, Any]:
        post = [] if fault is None else [f"--post-data={json.dumps(fault)}"]
        into = ["exec", "deployment/s3-proxy", "--", "wget", "--quiet", "--output-document=-", "--tries=1", *post]
        answer = json.loads(self.kubectl.within(addons.STORAGE)(*into, "http://127.0.0.1:9000/"))
        assert isinstance(answer, dict)
        return answer


def _pids(cgroup: Path) -> list[int]:
    """The processes of a cgroup, without those below it; none if it has just vanished."""
    with suppress(OSError):
        return [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]
    return []


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
