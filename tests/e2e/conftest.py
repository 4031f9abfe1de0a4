"""The cluster that the e2e tests run on: that of KUBECONFIG, else this machine's (`make cluster-up`)."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import S3Store

from tests.cluster.addons import BUCKET
from tests.cluster.faults import Faults, NotHere
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import FOLDER, load

_FORENSICS = Path(__file__).parents[2] / "build" / "e2e"


@pytest.fixture(scope="session")
def cluster() -> Kubectl:
    """kubectl with the cluster's kubeconfig. A test that needs a cluster fails where there is none."""
    kubeconfig = Path(os.environ.get("KUBECONFIG") or FOLDER / "kubeconfig")
    if not kubeconfig.exists():
        pytest.fail("there is no cluster: run `make cluster-up`, or name one by KUBECONFIG", pytrace=False)
    return Kubectl(kubeconfig)


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own, which goes with it. Of a test that failed, the namespace's pods, events and
    logs are kept in build/e2e."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    cluster("create", "namespace", name)
    inside = cluster.within(name)
    failures = request.session.testsfailed
    yield inside
    if request.session.testsfailed > failures:
        _keep(inside, _FORENSICS / request.node.name)
    cluster("delete", "namespace", name, "--wait=false")


@pytest.fixture
def s3(cluster: Kubectl) -> Iterator[S3Store]:
    """The bucket of the cluster's S3 server, by a port of this machine."""
    command = [*cluster.within("storage").command, "port-forward", "service/s3", "--address=127.0.0.1", ":8333"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        assert forward.stdout
        port = forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
        yield S3Store(
            BUCKET,
            endpoint=f"http://127.0.0.1:{port}",
            access_key_id="finetune-owner",
            secret_access_key="finetune-owner-secret",
            region="us-east-1",
            client_options={"allow_http": True},
        )
        forward.terminate()


@pytest.fixture
def faults(kubectl: Kubectl) -> Faults:
    """The faults, for pods of the test's namespace."""
    return Faults(kubectl, None if os.environ.get("KUBECONFIG") else load(FOLDER))


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
