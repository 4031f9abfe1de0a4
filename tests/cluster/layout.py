"""Where everything of a cluster is: its folder, its addresses and ports, its nodes. Nothing here touches the machine.

A whole cluster has one set of addresses, on an interface of its own, so there is one per machine. A control plane alone
has a folder and loopback ports that were free when it was made, so there may be many.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = ROOT / "build" / "bin"
FILES = Path(__file__).parent / "files"
FOLDER = ROOT / "build" / "cluster"

ADDRESS = "10.245.0.1"
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Node:
    """One kubelet with its containerd. `number` counts over all nodes from 1."""

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
        (self.folder / "layout.json").write_text(json.dumps(record, indent=1))


def load(folder: Path) -> Layout | None:
    """The layout that was saved in `folder`, if there is one."""
    try:
        record = json.loads((folder / "layout.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    nodes = tuple(Node(**each) for each in record.pop("nodes"))
    return Layout(**record | {"folder": folder, "nodes": nodes})


def fill(template: Path, **settings: str) -> str:
    """A file with each `{name}` of the settings replaced by its value. Other braces stay."""
    text = template.read_text()
    for name, value in settings.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def nodes(environment: Mapping[str, str]) -> tuple[Node, ...]:
    """cpu-1, cpu-2, ... and gpu-1, gpu-2, ...: as many as CPU_NODES and GPU_NODES say (1 each), with GPUS_PER_NODE (4)."""
    pools = (("cpu", 0, "CPU_NODES"), ("gpu", int(environment.get("GPUS_PER_NODE") or 4), "GPU_NODES"))
    found: list[Node] = []
    for pool, gpus, setting in pools:
        for index in range(1, int(environment.get(setting) or 1) + 1):
            found.append(Node(f"{pool}-{index}", len(found) + 1, gpus))
    return tuple(found)
