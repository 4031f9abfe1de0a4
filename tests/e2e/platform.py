"""The operator on the cluster of the tests, installed as a platform team does: by Helm, from the chart."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import yaml
from obstore.store import S3Store

from tests.cluster.helm import CHART, Helm
from tests.cluster.images import tag
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import ROOT

RELEASE, NAMESPACE = "finetune-operator", "finetune-system"


def values(**more: object) -> dict[str, Any]:
    """The example's pools, and the images that are on the nodes. Their GPUs exist for the scheduler only: a worker takes one,
    and computes on the CPU."""
    example = yaml.safe_load((ROOT / "examples" / "pools.yaml").read_text())
    example["gpuPools"]["gpu"]["extraResources"] = {"nvidia.com/gpu": "1"}
    images = {"image": _image(tag("operator")), "trainingImage": _image(tag("training"))}
    return {**example, **images, **more}


def _image(name: str) -> dict[str, str]:
    repository, _, version = name.rpartition(":")
    return {"repository": repository, "tag": version}


@contextmanager
def installed(kubectl: Kubectl, **more: object) -> Iterator[Helm]:
    """The operator, ready; gone again with its CRD afterwards."""
    helm = Helm(kubectl.kubeconfig, NAMESPACE)
    helm("install", RELEASE, str(CHART), "--create-namespace", "--wait", "--timeout=120s", values=values(**more))
    try:
        yield helm
    finally:
        helm("uninstall", RELEASE, "--ignore-not-found", "--wait", "--timeout=60s")
        kubectl("delete", "crd", "finetunejobs.finetune.dev", "--ignore-not-found", "--timeout=120s")
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")


@contextmanager
def namespace(cluster: Kubectl, prefix: str) -> Iterator[Kubectl]:
    """kubectl in a new namespace with the store's Secret. Its jobs are gone afterwards, and the namespace is on its way."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    cluster("create", "namespace", name)
    inside = cluster.within(name)
    make_store_secret(inside)
    try:
        yield inside
    finally:
        inside("delete", "ftj", "--all", "--timeout=120s")
        cluster("delete", "namespace", name, "--wait=false")


def make_store_secret(kubectl: Kubectl) -> None:
    """The Secret of examples/finetunejob.yaml, for the cluster's S3 server."""
    variables = {
        "AWS_ENDPOINT_URL": "http://s3-proxy.finetune-storage:8333",
        "AWS_ACCESS_KEY_ID": "finetune-owner",
        "AWS_SECRET_ACCESS_KEY": "finetune-owner-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store"}, "stringData": variables}
    kubectl.apply(json.dumps(body))


def upload(store: S3Store, folder: Path, prefix: str) -> None:
    """All files below `folder`."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        obstore.put(store, f"{prefix}/{path.relative_to(folder).as_posix()}", path)
