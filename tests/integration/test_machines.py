"""A run whose driver and ranks are on different machines: three Ray nodes with addresses, and as far as the kernel lets us
with temporary folders and homes, of their own. As on Kubernetes the head has no CPU, checkpoints are in S3, and the API
server hears how it goes."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.utils.cpp_extension import _get_build_directory

from finetune_operator import names
from finetune_training.store.storage import Store, open_store
from tests.cli import environment, finetune_in_pod, write_job, write_rows
from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import Layout
from tests.tiny import write_model

RAY = str(Path(sys.executable).parent / "ray")
# What DeepSpeed compiles at first use would take each machine minutes: the other tests have done it once for all.
COMPILED = {"TORCH_EXTENSIONS_DIR": str(Path(_get_build_directory("deepspeed_shm_comm", False)).parent)}
HEAD, WORKERS = "127.0.0.1", ("127.0.0.2", "127.0.0.3")


@dataclass(frozen=True)
class Machines:
    """`private` is another folder on each of them, for temporary files and as home. `folders` are all of these, as seen
    from here."""

    address: str
    private: Path
    folders: list[Path]

    def environment(self) -> dict[str, str]:
        return {"RAY_ADDRESS": self.address, "TMPDIR": str(self.private), "HOME": str(self.private), **COMPILED}


@pytest.fixture
def machines(s3_prefix: str, tmp_path: Path) -> Iterator[Machines]:
    """A head without CPUs and two workers of two. They know the S3 server."""
    private = tmp_path / "private"
    private.mkdir()
    with socket.socket() as probe:
        probe.bind((HEAD, 0))
        port = probe.getsockname()[1]
    found = Machines(f"{HEAD}:{port}", private, [])
    with ExitStack() as undo:
        ray_folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))  # short: it has sockets
        head = ["--head", f"--port={port}", f"--node-ip-address={HEAD}", "--num-cpus=0"]
        head += ["--include-dashboard=false", f"--temp-dir={ray_folder}"]
        found.folders.append(undo.enter_context(node([], head, private)))
        for address in WORKERS:
            worker = [f"--address={found.address}", f"--node-ip-address={address}", "--num-cpus=2"]
            found.folders.append(undo.enter_context(node(apart(private), worker, private)))
        yield found


@contextmanager
def node(prefix: list[str], options: list[str], private: Path) -> Iterator[Path]:
    """One machine's Ray, once it says that it is up; its `private` as seen from here."""
    process = subprocess.Popen(
        [*prefix, RAY, "start", "--block", "--object-store-memory=100000000", *options],
        env=environment(RAY_AUTH_MODE="disabled", TMPDIR=str(private), HOME=str(private), **COMPILED),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "--block" in line:
                break
        else:
            raise AssertionError(said)
        yield Path(f"/proc/{process.pid}/root{private}")
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def apart(private: Path) -> list[str]:
    """A prefix that gives a command an empty `private` of its own, where the kernel lets us."""
    prefix = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        'mount -t tmpfs tmpfs "$0"; exec "$@"',
        str(private),
    ]
    allowed = (
        shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    )
    return prefix if allowed else []


def job_on_cluster(kubectl: Kubectl, folder: Path, prefix: str) -> Path:
    """A job in the cluster with its model and data in S3, and its file as the operator writes it."""
    model = write_model(folder / "model", "llama")
    for file in model.iterdir():
        open_store(f"{prefix}/model").upload(file, file.name)
    open_store(f"{prefix}/data").upload(write_rows(folder / "rows.jsonl"), "rows.jsonl")
    path = write_job(
        folder, model=f"{prefix}/model", data=f"{prefix}/data/*.jsonl", checkpoint={"uri": f"{prefix}/runs"},
        resources={"pool": "cpu", "workers": 2, "gpusPerWorker": 0}, output=[{"format": "Merged", "uri": f"{prefix}/out"}],
    )  # fmt: skip
    made = json.loads(kubectl("create", "--output=json", f"--filename={path}"))
    job = yaml.safe_load(path.read_text())
    job["metadata"] = {key: made["metadata"][key] for key in ("name", "namespace", "uid")}
    path.write_text(yaml.safe_dump(job))
    return path


def stages(store: Store, attempt: int) -> list[str]:
    lines = (store.get(f"attempts/{attempt}/metrics.jsonl") or b"").splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    told = [record["stage"] for record in records if record["event"] == "StageStarted"]
    return [stage for stage, before in zip(told, [None, *told], strict=False) if stage != before]


@pytest.mark.slow
def test_two_ranks_on_two_machines_and_the_driver_on_a_third(
    machines: Machines, s3_prefix: str, kubectl: Kubectl, layout: Layout, account: Path, tmp_path: Path
) -> None:
    job = job_on_cluster(kubectl, tmp_path, s3_prefix)
    pod = {
        "KUBERNETES_SERVICE_HOST": layout.address, "KUBERNETES_SERVICE_PORT": str(layout.api_port),
        "FINETUNE_STATUS": "true", **machines.environment(),
    }  # fmt: skip
    ended = finetune_in_pod(tmp_path, account, "run", str(job), FINETUNE_ATTEMPT="1", **pod)
    assert ended.code == 0, ended.output
    found = kubectl.get(names.PLURAL, "tiny")
    store = open_store(f"{s3_prefix}/runs/default/tiny/{found['metadata']['uid']}")
    logs = [(store.get(f"attempts/1/rank-{rank}.log") or b"").decode() for rank in (0, 1)]
    where = [re.search(r"Rank \d of 2 on (\S+),", log) for log in logs]
    assert {match[1] for match in where if match} == set(WORKERS)
    assert stages(store, 1) == [
        "Preparing", "Starting", "Evaluating", "Training", "Evaluating", "Exporting", "Succeeded"
    ]  # fmt: skip
    run = found["status"]["run"]
    assert (run["attempt"], run["stage"], run["progress"]) == (1, "Succeeded", "6/6")
    assert run["checkpoint"]["uri"] == f"{store.uri}/checkpoints/step-00000006-a1"
    assert run["evaluation"]["tuned"] < run["evaluation"]["baseline"]
    assert [it["format"] for it in run["artifacts"]] == ["Adapter", "Merged"]
    assert 0 < run["usefulTokenRatio"] <= 1
    assert not [key for key in (entry.key for entry in store.entries()) if "/ray/" in key]
    assert [path for folder in machines.folders for path in folder.glob("finetune-*")] == []

    again = finetune_in_pod(tmp_path, account, "run", str(job), FINETUNE_ATTEMPT="2", **pod)
    assert (again.code, "is done already" in again.output) == (0, True), again.output
    later = kubectl.get(names.PLURAL, "tiny")["status"]["run"]
    assert (later["attempt"], later["stage"], later["artifacts"]) == (2, "Succeeded", run["artifacts"])
