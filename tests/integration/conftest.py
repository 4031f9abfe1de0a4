"""The servers that the integration tests talk to: real ones, on loopback, one of each for a whole test run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from finetune_training.cluster import ray_session
from tests.servers.hub import Hub, hub_server
from tests.servers.s3 import S3Server, s3_server


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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, named by HF_ENDPOINT for this test. `huggingface_hub` reads that variable when it is imported: code
    in this process must pass `endpoint=`, and a new process may rely on the variable."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


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
