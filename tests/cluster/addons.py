"""What runs inside every cluster of the tests: KubeRay and an S3 server with a bucket. Any kubeconfig will do."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tests.cluster.images import tag
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import FILES, ROOT, fill
from tests.cluster.programs import module_folder
from tests.cluster.steps import step

BUCKET = "finetune"
_KUBERAY = "github.com/ray-project/kuberay/ray-operator"


def install(kubectl: Kubectl, scratch: Path) -> None:
    """Apply KubeRay and the S3 server and wait until both are ready. Applying them again changes nothing."""
    with step("KubeRay: CRDs, RBAC, Deployment"):
        kubectl.apply(_kuberay(kubectl, scratch))
        kubectl.within("kuberay-system").wait("condition=Available", "deployment/kuberay-operator", seconds=180)
    with step("S3: SeaweedFS and the proxy in front of it"):
        kubectl.apply(_s3())
        storage = kubectl.within("storage")
        for name in ("s3", "s3-proxy"):
            storage("rollout", "status", f"deployment/{name}", "--timeout=180s")
        _make_bucket(storage)


def remove(kubectl: Kubectl, scratch: Path) -> None:
    """Take both out of a cluster that goes on without them."""
    for manifest in (_s3(), _kuberay(kubectl, scratch)):
        kubectl("delete", "--ignore-not-found", "--filename=-", stdin=manifest)


def _kuberay(kubectl: Kubectl, scratch: Path) -> str:
    folder = scratch / "kuberay"
    folder.mkdir(parents=True, exist_ok=True)
    # kustomize takes a folder outside of its own by a relative path only.
    sources = os.path.relpath(module_folder("kuberay", _KUBERAY) / "config" / "default", folder)
    image, _, version = tag("kuberay").rpartition(":")
    for file in (FILES / "kuberay").iterdir():
        (folder / file.name).write_text(fill(file, kuberay=sources, image=image, tag=version))
    return kubectl("kustomize", str(folder))


def _s3() -> str:
    source = (ROOT / "tests" / "servers" / "s3_proxy.py").read_text()
    # Named by its content, so that another proxy means other pods.
    name = f"s3-proxy-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    metadata = {"name": name, "namespace": "storage"}
    proxy = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"s3_proxy.py": source}}
    text = fill(FILES / "s3.yaml", seaweedfs=tag("seaweedfs"), training=tag("training"), proxy=name)
    return f"{text}\n---\n{json.dumps(proxy)}\n"


def _make_bucket(storage: Kubectl) -> None:
    shell = ["exec", "--stdin", "deployment/s3", "--container=s3", "--", "/weed", "shell", "-master=127.0.0.1:9333"]
    if BUCKET not in storage(*shell, stdin="s3.bucket.list\n").split():
        storage(*shell, stdin=f"s3.bucket.create -name {BUCKET}\n")
    if BUCKET not in storage(*shell, stdin="s3.bucket.list\n").split():
        raise KubectlFailed(f"the S3 server made no bucket {BUCKET}")
