"""etcd, the API server and the controllers: each one process of this machine, by the flags in files/processes.yaml."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import yaml

from tests.cluster import processes
from tests.cluster.certificates import Authority
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import ADDRESS, API_SERVICE, FILES, PODS, SERVICES, Layout, Node, fill
from tests.cluster.steps import step

_API = ("etcd", "kube-apiserver")
# Who each process is to the API server. The binding of kube-proxy's role is left to whoever installs it.
_USERS = {
    "kube-controller-manager": ("system:kube-controller-manager",),
    "kube-scheduler": ("system:kube-scheduler",),
    "kube-proxy": ("system:kube-proxy",),
    "coredns": ("system:coredns", "system:masters"),
}


def alone(folder: Path) -> Layout:
    """The layout of a control plane of its own: on loopback, at ports that are free now."""
    api, etcd, peer = _free_ports(3)
    return Layout(folder, "127.0.0.1", api, etcd, peer)


def whole(folder: Path, nodes: tuple[Node, ...]) -> Layout:
    """The layout of a cluster with nodes, at the addresses that all of it has."""
    etcd, peer = _free_ports(2)
    return Layout(folder, ADDRESS, 6443, etcd, peer, nodes)


def start_api(layout: Layout) -> None:
    """Start etcd and the API server and write the administrator's kubeconfig. What runs already is left alone."""
    authority = Authority(layout.folder / "pki")
    if not (authority.folder / "kubelet-client.crt").exists():  # the last of these
        authority.make()
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        authority.issue("api", "kube-apiserver", hosts=[layout.address, API_SERVICE, "127.0.0.1", "localhost", *names])
        authority.issue("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    if not layout.kubeconfig.exists():
        authority.write_kubeconfig(layout.kubeconfig, layout.server, "admin", ["system:masters"])
    if set(_API) <= processes.running(layout.folder).keys() and answers(layout):
        return
    with step("etcd and kube-apiserver"):
        for name in _API:
            _start(layout, name)
        processes.await_ready(layout.folder, "kube-apiserver", lambda: answers(layout))


def answers(layout: Layout) -> bool:
    """Whether the API server says that it is ready."""
    try:
        return Kubectl(layout.kubeconfig)("get", "--raw=/readyz", "--request-timeout=5s") == "ok"
    except KubectlFailed:
        return False


def start_controllers(layout: Layout) -> None:
    """Start the controller manager, the scheduler, kube-proxy and CoreDNS. What runs already is left alone."""
    authority = Authority(layout.folder / "pki")
    for name, (user, *groups) in _USERS.items():
        if not _kubeconfig(layout, name).exists():
            authority.write_kubeconfig(_kubeconfig(layout, name), layout.server, user, groups)
    (layout.folder / "Corefile").write_text(fill(FILES / "Corefile", address=ADDRESS, folder=str(layout.folder)))
    Kubectl(layout.kubeconfig).apply((FILES / "kube-proxy.yaml").read_text())
    with step(", ".join(_USERS)):
        for name in _USERS:
            _start(layout, name)


def missing(layout: Layout) -> list[str]:
    """Which processes of a cluster do not run, though they were started."""
    whole = [*_API, *_USERS, *(node.name for node in layout.nodes)]
    running = processes.running(layout.folder)
    return [name for name in (whole if layout.nodes else _API) if name not in running]


def stop_api(layout: Layout) -> None:
    """Kill the API server alone. Its data stays in etcd."""
    processes.stop(layout.folder, ["kube-apiserver"])


def remove(folder: Path) -> None:
    """Stop every process of a control plane and remove its folder."""
    processes.stop(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _start(layout: Layout, name: str) -> None:
    if name not in processes.running(layout.folder):
        numbers = {key: str(value) for key, value in asdict(layout).items() if key != "nodes"}
        settings = numbers | {"pods": PODS, "services": SERVICES, "kubeconfig": str(_kubeconfig(layout, name))}
        flags = yaml.safe_load(fill(FILES / "processes.yaml", **settings))[name]
        processes.start(layout.folder, name, [name, *flags])


def _kubeconfig(layout: Layout, name: str) -> Path:
    return layout.folder / f"{name}.kubeconfig"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
