"""Checkpoints on a store that fails for a while, and for ever: the real S3 server behind a proxy that fails as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_training.checkpoint.lineage import committed
from finetune_training.contract.environment import STORE_PATIENCE_SECONDS
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.store import storage
from tests.checkpoints import Run, save, saved
from tests.cli import finetune, read_until, write_job, write_rows
from tests.integration.test_run import start
from tests.servers.s3 import OWNER, READER, S3Proxy, S3Server
from tests.tiny import write_model

PASSING: list[dict[str, Any]] = [
    {"status": 500, "times": 12},
    {"status": 503, "times": 12},
    {"reset": True, "times": 12},
    {"hang": True, "times": 2},
    {"status": 500, "path": "manifest.json", "times": 12},
    {"reset": True, "path": "attempts", "times": 12},
]


@pytest.fixture
def run(proxied_prefix: str, tmp_path: Path) -> Run:
    return Run(tmp_path, proxied_prefix)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a server that does not answer is noticed after two seconds, not after sixty."""
    options = storage._client_options()
    monkeypatch.setattr(storage, "_client_options", lambda: {**options, "allow_http": True, "read_timeout": "2s"})


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_what_passes_is_waited_for(run: Run, s3_proxy: S3Proxy, fault: dict[str, Any]) -> None:
    checkpointer = run.checkpointer(keep=1)
    saved(checkpointer, 5)
    s3_proxy.fail(**fault)
    saved(checkpointer, 10)
    s3_proxy.mend()
    assert committed(run.store) == ["step-00000010-a1"]
    restored = run.restore(committed(run.store))
    assert restored is not None
    assert (restored.folder / "state.json").read_text() == "10"


@pytest.mark.parametrize("fault", [{"cut": 2}, {"reset": True}, {"status": 503}], ids=str)
def test_a_load_waits_too_and_takes_no_half_file(run: Run, s3_proxy: S3Proxy, fault: dict[str, Any]) -> None:
    saved(run.checkpointer(), 5, 10)
    names = committed(run.store)
    s3_proxy.fail(**fault, methods="GET", path="state.json", times=2)
    restored = run.restore(names)
    assert restored is not None
    assert restored.manifest.step == 10


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        pytest.param({"reset": True}, marks=pytest.mark.slow),
        pytest.param({"hang": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["optim_states", "manifest.json"])
def test_what_does_not_pass_ends_the_attempt_in_bounded_time_with_rank_file_and_cause(
    run: Run, s3_proxy: S3Proxy, fault: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_PATIENCE_SECONDS, "4")
    checkpointer = run.checkpointer()
    saved(checkpointer, 5)
    s3_proxy.fail(**fault, path=path)
    save(checkpointer, 10)
    with pytest.raises(FinetuneError) as raised:
        checkpointer.flush()
    failure = raised.value.failure
    assert (failure.cls, failure.reason, failure.rank) == (FailureClass.INFRASTRUCTURE, "StoreUnavailable", 0)
    assert "Rank 0 could not save" in failure.message
    assert path in failure.message
    s3_proxy.mend()
    names = run.claim(2)
    assert names == ["step-00000005-a1"]
    assert run.restore(names) is not None


def test_what_people_have_to_mend_ends_it_at_once(run: Run, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights that were taken away while the run was going on."""
    saved(run.checkpointer(), 5)
    checkpointer = run.checkpointer(attempt=2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.environment(READER)["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.environment(READER)["AWS_SECRET_ACCESS_KEY"])
    save(checkpointer, 10)
    with pytest.raises(FinetuneError) as raised:
        checkpointer.flush()
    failure = raised.value.failure
    assert (failure.cls, failure.reason, failure.rank) == (FailureClass.USER, "StoreAccessDenied", 0)
    assert "Rank 0 could not save" in failure.message


class _Credentials(BaseHTTPRequestHandler):
    """What EKS Pod Identity and ECS serve: credentials that are good for a few seconds."""

    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        body = {
            "AccessKeyId": OWNER.access_key, "SecretAccessKey": OWNER.secret_key, "Token": "",
            "Expiration": self.server.expiration,  # type: ignore[attr-defined]
        }  # fmt: skip
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """A server of credentials, and an environment that names it instead of keys."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Credentials)
    server.asked = 0  # type: ignore[attr-defined]
    server.expiration = "2020-01-01T00:00:00Z"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    token = tmp_path / "token"
    token.write_text("who-asks")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    yield server
    server.shutdown()
    server.server_close()


def test_credentials_that_have_expired_are_fetched_anew(run: Run, credentials: Any) -> None:
    checkpointer = run.checkpointer()
    saved(checkpointer, 5)
    asked = credentials.asked
    assert asked > 0
    saved(checkpointer, 10)
    assert credentials.asked > asked
    assert committed(run.store)[0] == "step-00000010-a1"


@pytest.mark.slow
@pytest.mark.timeout(600)  # the minute itself, and three runs
def test_a_run_outlives_a_minute_without_its_store_and_one_that_has_lost_it_is_resumed(
    proxied_prefix: str, s3_proxy: S3Proxy, tmp_path: Path
) -> None:
    model, rows = write_model(tmp_path / "llama", "llama"), write_rows(tmp_path / "rows.jsonl")
    checkpoint = {"uri": f"{proxied_prefix}/runs", "everySteps": 2}
    job = write_job(tmp_path, model=model, data=rows, training={"maxSteps": 12}, checkpoint=checkpoint)
    process = start(tmp_path, job)
    read_until(process, "checkpoint saved")
    s3_proxy.fail(reset=True)
    timer = threading.Timer(60, s3_proxy.mend)
    timer.start()
    output, _ = process.communicate(timeout=240)
    timer.join()
    assert process.returncode == 0, output

    lost = write_job(tmp_path, name="lost", model=model, data=rows, training={"maxSteps": 40}, checkpoint=checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STORE_PATIENCE_SECONDS, "5")
        process = start(tmp_path, lost)
        read_until(process, "checkpoint saved")
        s3_proxy.fail(status=503)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 5, output
    assert "could not save" in " ".join(output.split())
    s3_proxy.mend()
    ended = finetune(tmp_path, "run", str(lost))
    assert ended.code == 0, ended.output
    assert "from step" in ended.output or "resum" in ended.output.lower()
