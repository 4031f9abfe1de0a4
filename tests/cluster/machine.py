"""This machine: whether a cluster can run on it, and the little that a cluster changes of it outside its folder."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.layout import ADDRESS, FILES, PODS, Node, fill
from tests.cluster.steps import Problem, step

_LINK = "finetune0"
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# Command or file → Debian's package. buildah and debootstrap are asked for by `make images`, where docker is not.
_NEEDED = {
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "mkfs.ext4": "e2fsprogs",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "busybox": "busybox-static",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}


def require_root() -> None:
    """Raises Problem, saying what root is needed for."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        raise Problem(
            "a cluster of nodes needs root on Linux: for cgroups, mounts, network links and containers.\n"
            "Without root: CONTROL_PLANE_ONLY=1 (no pods), CLUSTER=kind (needs Docker), or KUBECONFIG=... (yours)."
        )


def require_space(folder: Path, gigabytes: float) -> None:
    """Raises Problem if the disk of `folder` has less than this free."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise Problem(
            f"{gigabytes:.0f} GB of disk are needed for what is not built or loaded yet, and {folder} has {free:.0f} GB free."
        )


def install_packages() -> None:
    """Install the Debian packages that are missing. Raises Problem where that cannot be done."""
    missing = sorted({package for name, package in _NEEDED.items() if not _has(name)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Problem(f"missing on this machine: {', '.join(missing)} (the names of Debian's packages)")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"apt-get install {' '.join(missing)}"):
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Problem(f"`apt-get {command[0]}` failed:\n{(done.stdout + done.stderr)[-2000:]}")


def set_up_network(folder: Path, nodes: Sequence[Node]) -> None:
    """Give the cluster its interface with its addresses, and pods their way out."""
    if not Path(f"/sys/class/net/{_LINK}").exists():
        _run("ip", "link", "add", _LINK, "type", "bridge")  # without ports: not every kernel has dummy links
        _run("ip", "link", "set", _LINK, "up")
    for address in (ADDRESS, *(node.address for node in nodes)):
        _run("ip", "address", "replace", f"{address}/32", "dev", _LINK)
    if not _has_table("ip", "finetune-cluster"):
        _run("nft", "--file", "-", stdin=fill(FILES / "network.nft", pods=PODS))
    before = folder / "ip_forward"
    if not before.exists():
        before.write_text(_FORWARD.read_text())
        _FORWARD.write_text("1")


def remove_network(folder: Path) -> None:
    """Take back what `set_up_network` and kube-proxy have made."""
    if Path(f"/sys/class/net/{_LINK}").exists():
        _run("ip", "link", "delete", _LINK)
    for family, table in (("ip", "finetune-cluster"), ("ip", "kube-proxy"), ("ip6", "kube-proxy")):
        if shutil.which("nft") and _has_table(family, table):
            _run("nft", "delete", "table", family, table)
    if (before := folder / "ip_forward").exists():
        _FORWARD.write_text(before.read_text())


def leftovers(folder: Path) -> list[str]:
    """What of a cluster is on this machine: nothing after `cluster-down`."""
    found = [f"folder {folder}"] if folder.exists() else []
    found += [f"link {_LINK}"] if Path(f"/sys/class/net/{_LINK}").exists() else []
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    found += [f"nftables {each}" for each in tables.splitlines() if "finetune" in each or "kube-proxy" in each]
    root = Path("/sys/fs/cgroup")
    found += [
        f"cgroup {each}" for each in (root / "finetune-cluster", *root.glob("*/finetune-cluster")) if each.exists()
    ]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [f"mount {line.split()[4]}" for line in mounts if f"{folder}/" in line]


def _has(name: str) -> bool:
    places = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return Path(name).exists() if name.startswith("/") else shutil.which(name, path=places) is not None


def _has_table(family: str, table: str) -> bool:
    return subprocess.run(["nft", "list", "table", family, table], capture_output=True, check=False).returncode == 0


def _run(*command: str, stdin: str | None = None) -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
