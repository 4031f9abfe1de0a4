"""Where everything of a cluster is: its folder, its addresses and ports, its nodes. Nothing here touches the machine.

A whole cluster has one set of addresses, on an interface of its own, so there is one per machine. A control plane alone
has a folder and loopback ports that were free when it was made, so there may be many.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.steps import Problem

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "build" / "bin"
FILES = Path(__file__).parent / "files"
FOLDER = ROOT / "build" / "cluster"
KIND = ROOT / "build" / "kind"

ADDRESS = "10.245.0.1"
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Node:
    """One kubelet with its containerd. Its addresses follow from `number`, so it keeps that whatever nodes are added."""

    name: str
    number: int
    gpus: int

    @property
    def address(self) -> str:
        """The address of its kubelet, on the cluster's own interface."""
        return f"10.245.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def pool(self) -> str:
        """The value of its label finetune.dev/pool."""
        return "gpu" if self.gpus else "cpu"

    @property
    def cgroup(self) -> str:
        """The cgroup of its pods, below the root of every controller."""
        return f"/finetune-cluster/{self.name}"


@dataclass(frozen=True)
class Layout:
    """A cluster's folder, the address of its control plane, and the ports that were chosen for it."""

    folder: Path
    address: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    nodes: tuple[Node, ...] = ()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def server(self) -> str:
        """The address of the API server."""
        return f"https://{self.address}:{self.api_port}"

    def node_folder(self, node: Node) -> Path:
        """What the node keeps: its /var, its disk and its settings."""
        return self.folder / "nodes" / node.name

    def save(self) -> None:
        """Write the layout into its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = asdict(self) | {"folder": str(self.folder)}
        write(self.folder / "layout.json", json.dumps(record, indent=1).encode())


def load(folder: Path) -> Layout | None:
    """The layout that was saved in `folder`, if there is one."""
    try:
        record = json.loads((folder / "layout.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    nodes = tuple(Node(**each) for each in record.pop("nodes"))
    return Layout(**record | {"folder": folder, "nodes": nodes})


def write(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, and that is there as a whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.touch(mode=0o600)
    part.write_bytes(content)
    os.replace(part, path)


def chosen(environment: Mapping[str, str]) -> Path:
    """The kubeconfig of the cluster that the settings choose: one of yours, kind's, or this machine's. A KUBECONFIG that
    happens to be set chooses nothing: make hands on the one of its command line by another name."""
    if yours := environment.get("FINETUNE_KUBECONFIG"):
        return Path(yours)
    return (KIND if environment.get("CLUSTER") == "kind" else FOLDER) / "kubeconfig"


def fill(template: Path, **settings: str) -> str:
    """A file with each `{name}` of the settings replaced by its value. Other braces stay."""
    text = template.read_text()
    for name, value in settings.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def nodes(environment: Mapping[str, str]) -> tuple[Node, ...]:
    """cpu-1, cpu-2, ... and gpu-1, gpu-2, ...: as many as CPU_NODES and GPU_NODES say (1 each), with GPUS_PER_NODE (4).
    Raises Problem."""
    gpus = _count(environment, "GPUS_PER_NODE", 4)
    cpu_nodes, gpu_nodes = (range(1, _count(environment, name, 1) + 1) for name in ("CPU_NODES", "GPU_NODES"))
    on_cpus = [Node(f"cpu-{index}", index, 0) for index in cpu_nodes]
    return (*on_cpus, *(Node(f"gpu-{index}", 100 + index, gpus) for index in gpu_nodes))


def _count(environment: Mapping[str, str], name: str, default: int) -> int:
    given = environment.get(name) or str(default)
    if not re.fullmatch("[1-9][0-9]?", given):
        raise Problem(f"{name}={given}: it is a number from 1 to 99")
    return int(given)
