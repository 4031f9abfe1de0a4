"""This machine: whether a cluster can run on it, and the little that a cluster changes of it outside its folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

from tests.cluster.layout import ADDRESS, FILES, PODS, ROOT, Node, fill, write
from tests.cluster.steps import Problem, run, step

_LINK = "finetune0"
_FORWARD = "net/ipv4/ip_forward"
# Of the whole machine, and changed by a kubelet when it starts; the first one by us, and by every CNI plugin.
_SYSCTLS = (
    _FORWARD,
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
_NO_POD = ["unreachable", PODS]
# Docker lets nothing be forwarded that is not its own.
_ACCEPT = [["FORWARD", side, PODS, "-j", "ACCEPT"] for side in ("-s", "-d")]
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
    """Raises Problem, saying what root is needed for, or where a cluster's folder cannot be."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        raise Problem(
            "a cluster of nodes needs root on Linux: for cgroups, mounts, network links and containers.\n"
            "Without root: CONTROL_PLANE_ONLY=1 (no pods), CLUSTER=kind (needs Docker), or KUBECONFIG=... (yours)."
        )
    if {"var", "run"} & set(ROOT.parts[1:2]):
        raise Problem(f"a node has a /var and a /run of its own, and would not see {ROOT}: move the clone elsewhere.")


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
    if not static_busybox() and "busybox-static" not in missing:
        missing.append("busybox-static")
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Problem(f"missing on this machine: {', '.join(missing)} (the names of Debian's packages)")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"apt-get install {' '.join(missing)}"):
        run("apt-get", "update", env=environment)
        run("apt-get", "install", "--yes", "--no-install-recommends", *missing, env=environment)


def static_busybox() -> str | None:
    """The busybox of this machine, if it needs no library: in the images it has none."""
    found = shutil.which("busybox")
    return found if found and subprocess.run(["ldd", found], capture_output=True, check=False).returncode else None


def set_up_network(folder: Path, nodes: Sequence[Node]) -> None:
    """Give the cluster its interface with its addresses, and pods their way out. What is set for the whole machine is
    written down before."""
    before = folder / "sysctls.json"
    if not before.exists():
        write(before, json.dumps({name: _sysctl(name).read_text().strip() for name in _SYSCTLS}, indent=1).encode())
    _sysctl(_FORWARD).write_text("1")
    if not Path(f"/sys/class/net/{_LINK}").exists():
        run("ip", "link", "add", _LINK, "type", "bridge")  # without ports: not every kernel has dummy links
    run("ip", "link", "set", _LINK, "up")
    for address in (ADDRESS, *(node.address for node in nodes)):
        run("ip", "address", "replace", f"{address}/32", "dev", _LINK)
    # What goes to a pod that is gone, such as one of a lost node, does not leave this machine.
    run("ip", "route", "replace", *_NO_POD)
    pods = [str(pod) for node in nodes for pod in IPv4Network(node.pods).hosts()]
    themselves = ", ".join(f"{pod} . {pod}" for pod in pods)
    run("nft", "--file", "-", stdin=fill(FILES / "network.nft", pods=PODS, themselves=themselves))
    for rule in _ACCEPT if _filters_forwarding() else ():
        if not _accepts(rule):
            run("iptables", "--wait", "-I", *rule)


def remove_network(folder: Path) -> None:
    """Take back what `set_up_network`, kube-proxy and the kubelets have made and set."""
    if Path(f"/sys/class/net/{_LINK}").exists():
        run("ip", "link", "delete", _LINK)
    if _routes():
        run("ip", "route", "delete", *_NO_POD)
    for family, table in (("ip", "finetune-cluster"), ("ip", "kube-proxy"), ("ip6", "kube-proxy")):
        if shutil.which("nft") and _has_table(family, table):
            run("nft", "delete", "table", family, table)
    for rule in _ACCEPT:
        if _accepts(rule):
            run("iptables", "--wait", "-D", *rule)
    if (before := folder / "sysctls.json").exists():
        for name, value in json.loads(before.read_text()).items():
            _sysctl(name).write_text(value)


def leftovers(folder: Path) -> list[str]:
    """What of a cluster is on this machine: nothing after `cluster-down`."""
    found = [f"folder {folder}"] if folder.exists() else []
    found += [f"link {_LINK}"] if Path(f"/sys/class/net/{_LINK}").exists() else []
    found += [f"route {each}" for each in _routes()]
    found += [f"iptables {' '.join(rule)}" for rule in _ACCEPT if _accepts(rule)]
    tables = run("nft", "list", "tables") if shutil.which("nft") else ""
    found += [f"nftables {each}" for each in tables.splitlines() if "finetune" in each or "kube-proxy" in each]
    root = Path("/sys/fs/cgroup")
    found += [
        f"cgroup {each}" for each in (root / "finetune-cluster", *root.glob("*/finetune-cluster")) if each.exists()
    ]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [f"mount {line.split()[4]}" for line in mounts if f"{ROOT}/build/" in line]


def _has(name: str) -> bool:
    return Path(name).exists() if name.startswith("/") else shutil.which(name) is not None


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _routes() -> list[str]:
    return run("ip", "route", "show", "type", *_NO_POD).splitlines() if shutil.which("ip") else []


def _filters_forwarding() -> bool:
    """Whether iptables has anything to say about what is forwarded. If not, it is left as it is, without a table."""
    return bool(shutil.which("iptables")) and run("iptables", "--wait", "-S", "FORWARD").strip() != "-P FORWARD ACCEPT"


def _accepts(rule: list[str]) -> bool:
    command = ["iptables", "--wait", "-C", *rule]
    return bool(shutil.which("iptables")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _has_table(family: str, table: str) -> bool:
    return subprocess.run(["nft", "list", "table", family, table], capture_output=True, check=False).returncode == 0
