"""The servers that the integration tests talk to: real ones, on loopback, one of each for a whole test run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune_operator import names
from finetune_operator.api.crd import definition
from finetune_training.driver.ray_cluster import ray_session
from tests.cluster import control_plane
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.servers.hub import Hub, hub_server
from tests.servers.s3 import S3Proxy, S3Server, s3_server, started_proxy

# What the chart gives the driver's account.
ROLE = f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: driver}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: driver}}
rules: [{{apiGroups: [{names.GROUP}], resources: [{names.PLURAL}/status], verbs: [get, patch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: driver}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: driver}}
subjects: [{{kind: ServiceAccount, name: driver, namespace: default}}]
"""


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS with an empty bucket: `endpoint`, `bucket`, `access_key`, `secret_key`."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_prefix(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://<bucket>/<unique>`, with the AWS_ variables of the owner set for this test."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def _s3_proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with started_proxy(s3) as proxy:
        yield proxy


@pytest.fixture
def s3_proxy(_s3_proxy: S3Proxy) -> Iterator[S3Proxy]:
    """A proxy in front of the S3 server that fails as it is told, until the test ends."""
    yield _s3_proxy
    _s3_proxy.mend()


@pytest.fixture
def proxied_prefix(s3_prefix: str, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3_prefix`, through the proxy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_proxy.endpoint)
    return s3_prefix


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, named by HF_ENDPOINT for this test. `huggingface_hub` reads that variable when it is imported: code
    in this process must pass `endpoint=`, and a new process may rely on the variable."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """etcd and an API server without nodes, for the tests of one module."""
    layout = control_plane.alone(tmp_path_factory.mktemp("control-plane"))
    layout.save()
    try:
        control_plane.start_api(layout)
        yield layout
    finally:
        control_plane.remove(layout.folder)


@pytest.fixture(scope="session")
def ray_here(s3: S3Server) -> Iterator[None]:
    """Ray of this process, which knows the S3 server: its processes get the environment of this moment. One for all tests:
    Ray Data hangs in the second session of a process (2.60)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        with ray_session(cpus=2):
            yield


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    made = control_plane.alone(tmp_path_factory.mktemp("control-plane") / "one")
    made.save()
    try:
        control_plane.start_api(made)
        yield made
    finally:
        control_plane.remove(made.folder)


@pytest.fixture(scope="session")
def kubectl(layout: Layout) -> Kubectl:
    """Of an administrator, once the CRD is served."""
    found = Kubectl(layout.kubeconfig, "default")
    found.apply(yaml.safe_dump(definition()))
    found.wait("condition=Established", "crd", f"{names.PLURAL}.{names.GROUP}")
    found.apply(ROLE)
    return found


@pytest.fixture
def account(layout: Layout, kubectl: Kubectl, tmp_path: Path) -> Path:
    """What Kubernetes mounts into a pod of the driver's account."""
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text(kubectl("create", "token", "driver"))
    (folder / "ca.crt").write_bytes((layout.folder / "pki" / "ca.crt").read_bytes())
    return folder
