"""The same cluster by kind, on a machine with Docker: `CLUSTER=kind`. It is written from kind's documentation and was not
tried where it was written, for want of a Docker daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from images.build import IMAGES
from tests.cluster.images import SMALL, tag
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import GPU, Node
from tests.cluster.steps import Problem, run, step

_NAME = "finetune"


def up(folder: Path, nodes: Sequence[Node]) -> Kubectl:
    """Make the cluster if it is not there, load the images and offer the GPUs. Raises Problem."""
    kubeconfig = folder / "kubeconfig"
    folder.mkdir(parents=True, exist_ok=True)
    named = ["--name", _NAME]
    if _NAME not in run("kind", "get", "clusters").split():
        with step("kind create cluster"):
            run("kind", "create", "cluster", *named, "--kubeconfig", kubeconfig, "--config", "-", stdin=_config(nodes))
    run("kind", "export", "kubeconfig", *named, "--kubeconfig", kubeconfig)
    with step("kind load"):
        run("kind", "load", "docker-image", *named, *map(tag, SMALL), *(image.tag for image in IMAGES))
    kubectl = Kubectl(kubeconfig)
    for node in kubectl.get("nodes", "--selector=finetune.dev/gpus")["items"]:
        name, gpus = node["metadata"]["name"], node["metadata"]["labels"]["finetune.dev/gpus"]
        patch = f'[{{"op": "add", "path": "/status/capacity/{GPU.replace("/", "~1")}", "value": "{gpus}"}}]'
        kubectl("patch", "node", name, "--subresource=status", "--type=json", f"--patch={patch}")
        kubectl("taint", "node", name, "--overwrite", f"{GPU}=present:NoSchedule")
    return kubectl


def require_docker() -> None:
    """Raises Problem unless kind and a docker daemon are here."""
    for command in (["kind", "version"], ["docker", "info"]):
        try:
            run(*command)
        except Problem as problem:
            raise Problem(f"CLUSTER=kind needs kind and a docker daemon: {problem}") from None


def down() -> None:
    """Delete the cluster."""
    with step("kind delete cluster"):
        run("kind", "delete", "cluster", "--name", _NAME)


def _config(nodes: Sequence[Node]) -> str:
    workers = []
    for node in nodes:
        labels = {"finetune.dev/pool": node.pool} | ({"finetune.dev/gpus": str(node.gpus)} if node.gpus else {})
        workers.append({"role": "worker", "labels": labels})
    kind = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}
    return yaml.safe_dump(kind | {"nodes": [{"role": "control-plane"}, *workers]})
