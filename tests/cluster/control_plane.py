"""etcd, the API server and the controllers: each one process of this machine."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.cluster import processes
from tests.cluster.certificates import Authority
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import ADDRESS, API_SERVICE, FILES, PODS, SERVICES, Layout
from tests.cluster.steps import step

# A lost node is noticed after this many seconds (Kubernetes' own: 50), and its pods leave it after as many more (300).
NODE_GRACE_SECONDS = 20
_CLIENTS = {
    "kube-controller-manager": ("system:kube-controller-manager",),
    "kube-scheduler": ("system:kube-scheduler",),
    "kube-proxy": ("system:kube-proxy",),
    "coredns": ("system:coredns", "system:masters"),
}


def alone(folder: Path) -> Layout:
    """The layout of a control plane of its own: on loopback, at ports that are free now."""
    api, etcd, peer = free_ports(3)
    return Layout(folder, "127.0.0.1", api, etcd, peer)


def start_api(layout: Layout) -> None:
    """Start etcd and the API server and write the administrator's kubeconfig. What runs already is left alone."""
    authority = Authority(layout.folder / "pki")
    running = processes.running(layout.folder)
    if not authority.made:
        authority.make()
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        authority.issue("api", "kube-apiserver", hosts=[layout.address, API_SERVICE, "127.0.0.1", "localhost", *names])
        authority.issue("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    if not layout.kubeconfig.exists():
        authority.write_kubeconfig(layout.kubeconfig, layout.server, "admin", ["system:masters"])
    if "etcd" not in running:
        processes.start(layout.folder, "etcd", _etcd(layout))
    if "kube-apiserver" not in running:
        with step("kube-apiserver, with etcd"):
            processes.start(layout.folder, "kube-apiserver", _api_server(layout))
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
    for name, (user, *groups) in _CLIENTS.items():
        kubeconfig = layout.folder / f"{name}.kubeconfig"
        if not kubeconfig.exists():
            authority.write_kubeconfig(kubeconfig, layout.server, user, groups)
    # The API server makes the binding of every other component, but kube-proxy's is left to the installer.
    Kubectl(layout.kubeconfig).apply((FILES / "kube-proxy.yaml").read_text())
    corefile = (FILES / "Corefile").read_text().replace("{address}", ADDRESS).replace("{folder}", str(layout.folder))
    (layout.folder / "Corefile").write_text(corefile)
    running = processes.running(layout.folder)
    for name, command in _controllers(layout).items():
        if name not in running:
            with step(name):
                processes.start(layout.folder, name, command)


def stop_api(layout: Layout) -> None:
    """Kill the API server alone. Its data stays in etcd."""
    processes.stop(layout.folder, ["kube-apiserver"], politely=False)


def _etcd(layout: Layout) -> list[str]:
    client, peer = f"http://127.0.0.1:{layout.etcd_port}", f"http://127.0.0.1:{layout.etcd_peer_port}"
    return [
        "etcd",
        f"--data-dir={layout.folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        # For tests: a machine that loses power loses its cluster.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(layout: Layout) -> list[str]:
    pki = layout.folder / "pki"
    return [
        "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        f"--bind-address={layout.address}",
        f"--advertise-address={layout.address}",
        f"--secure-port={layout.api_port}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--tls-cert-file={pki}/api.crt",
        f"--tls-private-key-file={pki}/api.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        # Otherwise `kubectl logs` looks the node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--default-not-ready-toleration-seconds={NODE_GRACE_SECONDS}",
        f"--default-unreachable-toleration-seconds={NODE_GRACE_SECONDS}",
        # A test may stop it while clients watch.
        "--shutdown-delay-duration=0s",
    ]


def _controllers(layout: Layout) -> dict[str, list[str]]:
    pki = layout.folder / "pki"
    kubeconfig = {name: f"--kubeconfig={layout.folder}/{name}.kubeconfig" for name in _CLIENTS}
    return {
        "kube-controller-manager": [
            "kube-controller-manager",
            kubeconfig["kube-controller-manager"],
            f"--bind-address={ADDRESS}",
            "--use-service-account-credentials",
            f"--root-ca-file={pki}/ca.crt",
            f"--service-account-private-key-file={pki}/service-accounts.key",
            f"--cluster-cidr={PODS}",
            "--allocate-node-cidrs=false",
            f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
            "--leader-elect=false",
        ],
        "kube-scheduler": [
            "kube-scheduler",
            kubeconfig["kube-scheduler"],
            f"--bind-address={ADDRESS}",
            "--leader-elect=false",
        ],
        "kube-proxy": [
            "kube-proxy",
            kubeconfig["kube-proxy"],
            "--proxy-mode=nftables",
            f"--cluster-cidr={PODS}",
            f"--hostname-override={layout.nodes[0].name}",
            f"--healthz-bind-address={ADDRESS}:10256",
            f"--metrics-bind-address={ADDRESS}:10249",
            "--conntrack-max-per-core=0",
        ],
        "coredns": ["coredns", "-conf", f"{layout.folder}/Corefile"],
    }


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def remove(folder: Path) -> None:
    """Stop every process of a control plane and remove its folder."""
    processes.stop(folder, politely=False)
    shutil.rmtree(folder, ignore_errors=True)
