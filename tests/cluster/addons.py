"""What runs inside every cluster of the tests: KubeRay and an S3 server with a bucket. Any kubeconfig will do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.images import tag
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import FILES, ROOT, fill
from tests.cluster.programs import module_folder
from tests.cluster.steps import Problem, step, until

BUCKET = "finetune"
KUBERAY, STORAGE = "kuberay-system", "finetune-storage"
_KUBERAY_MODULE = "github.com/ray-project/kuberay/ray-operator"
# What is in no namespace of ours has this label (files/), and so have the namespaces.
_LABEL = "finetune.dev/part-of"
_THEIRS = {
    "customresourcedefinition.apiextensions.k8s.io/rayjobs.ray.io",
    f"namespace/{KUBERAY}",
    f"namespace/{STORAGE}",
}

# A rollout is over before every node knows of it, and SeaweedFS says that it is ready before it finds what it holds: only
# one who was served knows that it serves. Not through the proxy, which may have been told to fail.
_USE_S3 = f"""
import obstore, socket
from obstore.store import S3Store
socket.create_connection(("s3-proxy.{STORAGE}", 8333), timeout=5).close()
store = S3Store({BUCKET!r}, endpoint="http://s3.{STORAGE}:8333", retry_config={{"max_retries": 0}},
                access_key_id="finetune-owner", secret_access_key="finetune-owner-secret", region="us-east-1",
                client_options={{"allow_http": True, "timeout": "5s"}})
obstore.put(store, ".ready", b"ready")
obstore.get(store, ".ready").bytes()
obstore.delete(store, ".ready")
"""


def install(kubectl: Kubectl, scratch: Path, identities: Mapping[str, str]) -> None:
    """Apply KubeRay and the S3 server and wait until both are ready. Applying them again changes nothing, unless the images
    of the tags have other `identities` than before: then they are started anew. Raises Problem."""
    with step("KubeRay: CRDs, RBAC, Deployment"), _explained(kubectl, KUBERAY):
        kubectl.apply(_kuberay(kubectl, scratch, identities))
        kubectl.within(KUBERAY).wait("condition=Available", "deployment/kuberay-operator", seconds=180)
    with step("S3: SeaweedFS and the proxy in front of it"), _explained(kubectl, STORAGE):
        kubectl.apply(_s3(_place(kubectl), identities))
        kubectl.within(STORAGE)("rollout", "status", "deployment/s3", "--timeout=180s")
        _make_bucket(kubectl.within(STORAGE))
        await_ready(kubectl)


def await_ready(kubectl: Kubectl) -> None:
    """Wait until KubeRay and the S3 server serve: also jobs that start the moment this returns. Raises Problem."""
    storage = kubectl.within(STORAGE)
    for inside, name in ((kubectl.within(KUBERAY), "kuberay-operator"), (storage, "s3"), (storage, "s3-proxy")):
        inside("rollout", "status", f"deployment/{name}", "--timeout=180s")
    said = ""
    for _ in until(60):
        try:
            storage("exec", "deployment/s3-proxy", "--", "python", "-c", _USE_S3)
            return
        except KubectlFailed as failure:
            said = str(failure)[-1000:]
    raise Problem(f"the S3 server does not serve: {said}")


def refuse_theirs(kubectl: Kubectl) -> None:
    """Raises Problem if the cluster has a KubeRay, or a namespace of ours, that is not from here."""
    named = kubectl("get", "crd,namespace", f"--selector={_LABEL}!=finetune-tests", "--output=name")
    if found := sorted(_THEIRS & set(named.split())):
        raise Problem(
            f"the cluster has {', '.join(found)}, and not from here: the tests bring their own and would change these.\n"
            "Take them out, or use another cluster."
        )


def remove(kubectl: Kubectl) -> None:
    """Take both out of a cluster that goes on without them."""
    # KubeRay's objects before KubeRay, which has a word in their end.
    for kinds in ("crd", "namespace,clusterrole,clusterrolebinding"):
        kubectl("delete", kinds, f"--selector={_LABEL}=finetune-tests")


@contextmanager
def _explained(kubectl: Kubectl, namespace: str) -> Iterator[None]:
    """Let a failure say what the namespace's pods are and what happened to them."""
    try:
        yield
    except Problem as failure:
        inside = kubectl.within(namespace)
        events = inside("get", "events", "--sort-by=.lastTimestamp").splitlines()[-15:]
        raise Problem("\n".join([str(failure), inside("get", "pods", "--output=wide"), *events])) from failure


def _kuberay(kubectl: Kubectl, scratch: Path, identities: Mapping[str, str]) -> str:
    folder = scratch / "kuberay"
    folder.mkdir(parents=True, exist_ok=True)
    # kustomize takes a folder outside of its own by a relative path only.
    sources = os.path.relpath(module_folder("kuberay", _KUBERAY_MODULE) / "config" / "default", folder)
    image, _, version = tag("kuberay").rpartition(":")
    settings = {"kuberay": sources, "image": image, "tag": version, "identity": identities[tag("kuberay")]}
    for file in (FILES / "kuberay").iterdir():
        (folder / file.name).write_text(fill(file, **settings))
    return kubectl("kustomize", str(folder))


def _s3(place: str, identities: Mapping[str, str]) -> str:
    source = (ROOT / "tests" / "servers" / "s3_proxy.py").read_text()
    # Named by its content, so that another proxy means other pods.
    name = f"s3-proxy-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    metadata = {"name": name, "namespace": STORAGE}
    proxy = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"s3_proxy.py": source}}
    settings = {"seaweedfs": tag("seaweedfs"), "training": tag("training"), "proxy": name, "place": place}
    settings |= {"identity": identities[tag("seaweedfs")]}
    return f"{fill(FILES / 's3.yaml', **settings)}\n---\n{json.dumps(proxy)}\n"


def _place(kubectl: Kubectl) -> str:
    """The host name of the node that has the S3 server's data: the first of the CPU pool."""
    hosts = "--output=jsonpath={.items[*].metadata.labels.kubernetes\\.io/hostname}"
    found = sorted(kubectl("get", "nodes", "--selector=finetune.dev/pool=cpu", hosts).split())
    if not found:
        raise Problem("no node has the label finetune.dev/pool=cpu: `kubectl label node ... finetune.dev/pool=cpu`")
    return found[0]


def _make_bucket(storage: Kubectl) -> None:
    shell = ["exec", "--stdin", "deployment/s3", "--container=s3", "--", "/weed", "shell", "-master=127.0.0.1:9333"]
    if BUCKET not in storage(*shell, stdin="s3.bucket.list\n").split():
        storage(*shell, stdin=f"s3.bucket.create -name {BUCKET}\n")
    if BUCKET not in storage(*shell, stdin="s3.bucket.list\n").split():
        raise KubectlFailed(f"the S3 server made no bucket {BUCKET}")
