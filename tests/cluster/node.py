"""A node: a containerd and a kubelet with a /var, a disk and a cgroup of their own, ended as one by killing one process."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from tests.cluster import processes
from tests.cluster.certificates import Authority
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import ADDRESS, FILES, GPU, Layout, Node, fill
from tests.cluster.steps import Problem, run, step, until

# The disk that emptyDirs and other volumes share (logs of pods are not on it). A sparse file: it costs what is written.
DISK_BYTES = 8 * 2**30
CGROUPS = Path("/sys/fs/cgroup")


def start(layout: Layout, node: Node, image_root: Path) -> None:
    """Start a node that does not run, from the images in `image_root` if it is new, and wait until it is Ready."""
    if node.name not in processes.running(layout.folder):
        folder = layout.node_folder(node)
        if not (folder / "kubeconfig").exists():
            _prepare(layout, node, folder, image_root)
        remove_cgroups(
            node.cgroup
        )  # as after a start of a machine: kubelets wait for the containers of those they find
        make_cgroups(node.cgroup)
        flags = [f"--config={folder}/kubelet.yaml", f"--kubeconfig={folder}/kubeconfig", f"--node-ip={node.address}"]
        flags += [f"--hostname-override={node.name}", f"--node-labels=finetune.dev/pool={node.pool}"]
        _forget_that_it_was_ready(Kubectl(layout.kubeconfig), node)
        start_apart(layout.folder, node.name, folder, *flags)
    with step(f"node {node.name}"):
        _await_ready(layout, node)


def start_apart(cluster: Path, name: str, folder: Path, *kubelet_flags: str) -> None:
    """Start containerd, and a kubelet if there are flags for it, with `folder`/var as their /var."""
    # Killing the first process of the namespace kills all in it, whoever started them.
    private = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    processes.start(cluster, name, [*private, FILES / "node.sh", folder, *kubelet_flags])


def stop(layout: Layout, node: Node) -> None:
    """End a node at once, with all that runs on it, as a machine that loses power."""
    processes.stop(layout.folder, [node.name])


def host_pid(cluster: Path, name: str) -> int:
    """The number, on this machine, of a node's first process: `/proc/<pid>/root` is what the node sees."""
    for pid in processes.running(cluster).get(name, []):
        status = Path(f"/proc/{pid}/status").read_text()
        inside = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
        if inside == "1":
            return pid
    raise Problem(f"node {name} does not run: `make cluster-up` starts it")


def make_cgroups(path: str) -> None:
    """Make a cgroup in every controller, usable by a kubelet."""
    if (CGROUPS / "cgroup.controllers").exists():  # version 2
        _make_unified(CGROUPS, Path(path.strip("/")).parts)
        return
    for controller in (each for each in CGROUPS.iterdir() if each.is_dir() and each.name != "unified"):
        cgroup = controller
        for part in Path(path.strip("/")).parts:
            parent, cgroup = cgroup, cgroup / part
            cgroup.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one: nothing could run in it
                if (cgroup / setting).exists():
                    (cgroup / setting).write_text((parent / setting).read_text())


def _make_unified(root: Path, parts: tuple[str, ...]) -> None:
    cgroup = root
    for part in ("", *parts):
        cgroup = cgroup / part
        cgroup.mkdir(exist_ok=True)
        wanted = (cgroup / "cgroup.controllers").read_text().split()
        (cgroup / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in wanted))


def remove_cgroups(path: str) -> None:
    """Remove a cgroup and all below it, from every controller. Nothing may run in it any more."""
    for controller in (CGROUPS, *(each for each in CGROUPS.iterdir() if each.is_dir())):
        top = controller / path.strip("/")
        for folder, _, _ in os.walk(top, topdown=False):
            for _ in until(10):  # it is busy until the last process in it is quite gone
                with suppress(OSError):
                    os.rmdir(folder)
                    break
            else:
                raise Problem(f"{folder} cannot be removed: see {folder}/cgroup.procs for what runs in it")


def _prepare(layout: Layout, node: Node, folder: Path, image_root: Path) -> None:
    with step(f"prepare {node.name}"):
        shutil.rmtree(folder, ignore_errors=True)
        var = folder / "var"
        for each in ("lib/kubelet", "lib/cni/net.d", "log", "tmp"):
            (var / each).mkdir(parents=True)
        (var / "run").symlink_to("/run")
        _share(image_root, var / "lib" / "containerd")
        with (folder / "disk.img").open("wb") as disk:
            disk.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-m", "0", folder / "disk.img")
        settings = {"address": node.address, "pods": node.pods, "dns": ADDRESS, "cgroup": node.cgroup}
        settings |= {"folder": str(folder), "pki": str(layout.folder / "pki")}
        kubelet = fill(FILES / "kubelet.yaml", **settings)
        if node.gpus:
            kubelet += f"registerWithTaints: [{{key: {GPU}, value: present, effect: NoSchedule}}]\n"
        (folder / "kubelet.yaml").write_text(kubelet)
        (var / "lib/cni/net.d/10-pods.conflist").write_text(fill(FILES / "network.json", **settings))
        (folder / "resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
        user, groups = f"system:node:{node.name}", ["system:nodes"]
        # Last: a node is prepared when its kubeconfig is there.
        Authority(layout.folder / "pki").write_kubeconfig(folder / "kubeconfig", layout.server, user, groups)


def _share(source: Path, target: Path) -> None:
    """Copy a containerd root by hard links: layers are never written to. Its databases are, so they are real copies."""
    run("cp", "--archive", "--link", source, target)
    for database in target.rglob("*.db"):
        database.unlink()
        shutil.copy2(source / database.relative_to(target), database)


def _forget_that_it_was_ready(kubectl: Kubectl, node: Node) -> None:
    """The API says that a node is Ready until somebody notices that it is not: what its kubelet says next is new."""
    unknown = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    with suppress(KubectlFailed):  # there is no such node yet
        kubectl("patch", "node", node.name, "--subresource=status", f"--patch={json.dumps(unknown)}")


def _await_ready(layout: Layout, node: Node) -> None:
    kubectl = Kubectl(layout.kubeconfig)

    def ready() -> bool:
        with suppress(KubectlFailed):
            kubectl.wait("condition=Ready", f"node/{node.name}", seconds=2)
            return True
        return False

    logs = [layout.node_folder(node) / f"{each}.log" for each in ("kubelet", "containerd")]
    processes.await_ready(layout.folder, node.name, ready, *logs, seconds=120)
    if node.gpus:
        _offer_gpus(kubectl, node)


def _offer_gpus(kubectl: Kubectl, node: Node) -> None:
    """Make the scheduler believe in GPUs. A kubelet that starts anew forgets them, so this follows each start."""
    path = f"/status/capacity/{GPU.replace('/', '~1')}"
    patch = f'[{{"op": "add", "path": "{path}", "value": "{node.gpus}"}}]'
    kubectl("patch", "node", node.name, "--subresource=status", "--type=json", f"--patch={patch}")
    offered = "{.status.allocatable." + GPU.replace(".", r"\.") + "}"
    kubectl.wait(f"jsonpath={offered}={node.gpus}", f"node/{node.name}", seconds=60)
