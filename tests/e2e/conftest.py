"""The cluster that the e2e tests run on: that of KUBECONFIG, else this machine's (`make cluster-up`)."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from obstore.store import S3Store

from tests.cluster.addons import BUCKET, STORAGE
from tests.cluster.faults import Faults, NotHere
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import FOLDER, Layout, chosen, load

_FORENSICS = Path(__file__).parents[2] / "build" / "e2e"


@pytest.fixture(scope="session")
def cluster() -> Kubectl:
    """kubectl with the cluster's kubeconfig. A test that needs a cluster fails where there is none."""
    kubeconfig = chosen(os.environ)
    if not kubeconfig.exists():
        pytest.fail(f"there is no {kubeconfig}: run `make cluster-up`, or `make e2e KUBECONFIG=...`", pytrace=False)
    return Kubectl(kubeconfig)


def layout_of() -> Layout | None:
    """That of the cluster, if its nodes are this machine's."""
    return load(FOLDER) if chosen(os.environ).is_relative_to(FOLDER) else None


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own, which goes with it. Of a test that failed, the namespace's pods, events and
    logs are kept in build/e2e."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    cluster("create", "namespace", name)
    inside = cluster.within(name)
    failures = request.session.testsfailed
    yield inside
    try:
        if request.session.testsfailed > failures:
            _keep(inside, _FORENSICS / request.node.name)
    finally:
        cluster("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def s3(cluster: Kubectl) -> Iterator[S3Store]:
    """The bucket of the cluster's S3 server, by a port of this machine."""
    with _bucket_at(cluster, "s3") as store:
        yield store


@pytest.fixture(scope="module")
def module_s3(cluster: Kubectl) -> Iterator[S3Store]:
    """The same, for what a module's tests share."""
    with _bucket_at(cluster, "s3") as store:
        yield store


@pytest.fixture
def s3_proxied(cluster: Kubectl) -> Iterator[S3Store]:
    """The same bucket through the proxy that fails on demand, as jobs see it. Nothing is tried twice."""
    with _bucket_at(cluster, "s3-proxy") as store:
        yield store


@contextmanager
def _bucket_at(cluster: Kubectl, service: str) -> Iterator[S3Store]:
    with _port_of(cluster.within(STORAGE), service) as endpoint:
        yield S3Store(
            BUCKET,
            endpoint=endpoint,
            access_key_id="finetune-owner",
            secret_access_key="finetune-owner-secret",
            region="us-east-1",
            client_options={"allow_http": True, "timeout": "10s"},
            retry_config={"max_retries": 0},
        )


@contextmanager
def _port_of(kubectl: Kubectl, service: str) -> Iterator[str]:
    """Where this machine reaches a service: at its own address if the nodes are this machine. A forwarded port stands still
    once a connection through it was reset, so faults of S3 are not dependable on a cluster of others."""
    found = kubectl.get("service", service)["spec"]
    if layout_of():
        yield f"http://{found['clusterIP']}:{found['ports'][0]['port']}"
        return
    command = [*kubectl.command, "port-forward", f"service/{service}", "--address=127.0.0.1", ":8333"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as forward:
        assert forward.stdout
        yield "http://127.0.0.1:" + forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
        forward.terminate()


@pytest.fixture
def faults(kubectl: Kubectl) -> Faults:
    """The faults, for pods of the test's namespace."""
    return Faults(kubectl, layout_of())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A fault that this cluster cannot have is a skip."""
    try:
        yield
    except NotHere as reason:
        pytest.skip(str(reason))


def _keep(kubectl: Kubectl, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "describe.txt").write_text(kubectl("describe", "pods,rayjobs"))
    (folder / "events.txt").write_text(kubectl("get", "events", "--sort-by=.lastTimestamp"))
    for pod in kubectl.get("pods")["items"]:
        name = pod["metadata"]["name"]
        (folder / f"{name}.log").write_text(kubectl("logs", name, "--all-containers", "--ignore-errors"))
