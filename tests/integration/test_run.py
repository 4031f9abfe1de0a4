"""`finetune run` from end to end: real Ray, real DeepSpeed, real stores."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from finetune_training.events.result import RunResult
from finetune_training.store.storage import open_store
from tests.cli import command, environment, finetune, read_until, write_job, write_rows
from tests.faulty import short_of_memory, write_faulty_model
from tests.tiny import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def start(folder: Path, job: Path, **changes: str) -> subprocess.Popen[str]:
    """A run in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        command("run", str(job)), cwd=folder, env=environment(**changes), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def metrics(folder: Path, attempt: int) -> list[dict[str, Any]]:
    path = folder / "runs" / "tiny" / "attempts" / str(attempt) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_workers_train_from_s3_to_s3_and_know_when_they_are_done(
    model: Path, rows: Path, s3_prefix: str, tmp_path: Path
) -> None:
    data = open_store(f"{s3_prefix}/data")
    data.upload(rows, "rows.jsonl")
    for file in model.iterdir():
        open_store(f"{s3_prefix}/model").upload(file, file.name)
    job = write_job(
        tmp_path,
        model=f"{s3_prefix}/model",
        data=f"{s3_prefix}/data/*.jsonl",
        checkpoint={"uri": f"{s3_prefix}/runs"},
        output=[{"format": "Adapter"}, {"format": "Merged", "uri": f"{s3_prefix}/out"}],
    )
    cache = {"FINETUNE_CACHE": str(tmp_path / "cache")}
    ended = finetune(tmp_path, "run", str(job), "--workers", "2", **cache)
    assert ended.code == 0, ended.output
    assert "held-out loss" in ended.output
    store = open_store(f"{s3_prefix}/runs/tiny")
    keys = {entry.key for entry in store.entries()}
    assert {"result/metrics.json", "result/report.html", "result/adapter/adapter_model.safetensors"} <= keys
    assert {
        "attempts/1/driver.log",
        "attempts/1/rank-0.log",
        "attempts/1/rank-1.log",
        "attempts/1/metrics.jsonl",
    } <= keys
    assert {"checkpoints/step-00000003-a1/manifest.json", "checkpoints/step-00000006-a1/manifest.json"} <= keys
    assert {"config.json", "model.safetensors", "README.md"} <= {
        entry.key for entry in open_store(f"{s3_prefix}/out").entries()
    }
    result = RunResult.from_json(store.get("result/metrics.json") or b"")
    assert result.steps == 6
    assert result.evaluation.baseline is not None
    assert result.evaluation.tuned is not None
    assert result.evaluation.tuned.loss < result.evaluation.baseline.loss
    assert {artifact.format for artifact in result.artifacts} == {"Adapter", "Merged"}
    assert result.samples[0].base is not None

    again = finetune(tmp_path, "run", str(job), "--workers", "2", **cache)
    assert (again.code, "is done already" in again.output) == (0, True), again.output
    assert store.get("attempts/2/claim") is None

    write_job(
        tmp_path, model=f"{s3_prefix}/model", data=f"{s3_prefix}/data/*.jsonl", checkpoint={"uri": f"{s3_prefix}/runs"}
    )
    changed = finetune(tmp_path, "run", str(job))
    assert changed.code == 2
    assert "JobChanged" in changed.output
    assert "spec.output" in changed.output


@pytest.mark.slow
@pytest.mark.slow  # a short chain of the same is in the e2e tests
@pytest.mark.timeout(600)  # three starts on a machine that may be busy
def test_ctrl_c_saves_a_checkpoint_and_the_next_run_goes_on_from_it(model: Path, rows: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=rows, training={"maxSteps": 60}, checkpoint={"everySteps": 0})
    process = start(tmp_path, job)
    read_until(process, "Step 1/60")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Run the same command again" in output
    stopped = max(record["step"] for record in metrics(tmp_path, 1) if record["event"] == "Step")
    assert stopped < 60
    folder = tmp_path / "runs" / "tiny"
    assert (folder / "checkpoints" / f"step-{stopped:08d}-a1" / "manifest.json").exists()
    assert json.loads((folder / "attempts" / "1" / "failure.json").read_text())["class"] == "Interrupted"

    ended = finetune(tmp_path, "run", str(job))
    assert ended.code == 0, ended.output
    steps = [record["step"] for record in metrics(tmp_path, 2) if record["event"] == "Step"]
    assert steps == list(range(stopped + 1, 61))
    assert RunResult.from_json((folder / "result" / "metrics.json").read_bytes()).resumed_from_step == stopped

    fresh = finetune(tmp_path, "run", str(job), "--fresh")
    assert fresh.code == 0, fresh.output
    assert [record["step"] for record in metrics(tmp_path, 3) if record["event"] == "Step"] == list(range(1, 61))
    assert [path.name for path in (folder / "attempts").iterdir()] == ["3"]


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train now."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in child.name() + "".join(child.cmdline())
    ]


@pytest.mark.timeout(600)  # three starts on a machine that may be busy
def test_a_rank_that_is_killed_starts_again_and_one_that_is_stopped_is_found(
    model: Path, rows: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path, model=model, data=rows, training={"maxSteps": 900}, checkpoint={"everySteps": 2})
    process = start(tmp_path, job, FINETUNE_HANG_SECONDS="4")
    read_until(process, "checkpoint saved")
    (rank,) = ranks_of(process)
    rank.kill()
    read_until(process, "Resumed from step")
    read_until(process, "checkpoint saved")
    events = metrics(tmp_path, 1)
    assert [event["why"] for event in events if event["event"] == "Restarted"] == [
        "Rank 0 is gone: its process died without a word."
    ]
    resumed = next(event["step"] for event in events if event["event"] == "Resumed")
    assert resumed % 2 == 0
    after = events[next(n for n, event in enumerate(events) if event["event"] == "Resumed") :]
    assert next(event["step"] for event in after if event["event"] == "Step") == resumed + 1

    (rank,) = ranks_of(process)
    rank.suspend()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 8, output
    assert "Hang" in output
    assert "Rank 0 is stopped (SIGSTOP)." in output
    attempts = tmp_path / "runs" / "tiny" / "attempts"
    assert "rank 0, state T" in (attempts / "1" / "stacks.txt").read_text()
    assert "pid" in (attempts / "1.1" / "rank-0.log").read_text()
    assert not rank.is_running()


def test_a_run_that_needs_too_much_memory_goes_on_with_less(rows: Path, tmp_path: Path) -> None:
    """A micro batch of 4 samples with 64 tokens each does not fit, one of 2 does."""
    model = write_faulty_model(tmp_path / "model", short_of_memory(tokens=128))
    training = {"microBatchSize": 4, "maxSteps": 4}
    job = write_job(tmp_path, model=model, data=rows, training=training, evaluation={"baseline": False})
    body = yaml.safe_load(job.read_text())
    body["spec"]["model"]["trustRemoteCode"] = True
    job.write_text(yaml.safe_dump(body))
    ended = finetune(tmp_path, "run", str(job))
    assert ended.code == 0, ended.output
    told = [event for event in metrics(tmp_path, 1) if event["event"] == "MemoryUse"]
    assert [(event["rung"], event["microBatchSize"]) for event in told] == [(0, 4), (1, 2)]
    assert "training.microBatchSize 4 -> 2" in ended.output


@contextmanager
def ray_head(folder: Path) -> Iterator[str]:
    """A Ray cluster that somebody else runs: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--head",
        f"--port={port}",
        "--num-cpus=3",
        "--include-dashboard=false",
        "--block",
        f"--temp-dir={folder}",
    ]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "ray"), "start", *options],
        env=environment(RAY_AUTH_MODE="disabled"),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        read_until(process, "--block")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_a_cluster_that_is_there_is_used_and_left_alone(model: Path, rows: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, model=model, data=rows, resources={"workers": 2, "gpusPerWorker": 0})
    with tempfile.TemporaryDirectory(prefix="ray-") as short, ray_head(Path(short)) as address:
        # One machine: the file's two workers want two, `--workers` are processes.
        ended = finetune(tmp_path, "run", str(job), "--workers", "2", RAY_ADDRESS=address)
        assert ended.code == 0, ended.output
        assert "2 CPU workers" in ended.output
        large = write_job(
            tmp_path,
            model=model,
            data=rows,
            name="large",
            resources={"workers": 8, "gpusPerWorker": 0},
            training={"globalBatchSize": 8},
        )
        waited = finetune(tmp_path, "run", str(large), RAY_ADDRESS=address, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="5")
        assert waited.code == 5, waited.output
        assert "Infrastructure · ClusterTooSmall" in waited.output
        alive = subprocess.run(
            [sys.executable, "-c", "import ray; ray.init(); print(int(ray.cluster_resources()['CPU']))"],
            env=environment(RAY_ADDRESS=address, RAY_AUTH_MODE="disabled"),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert alive.stdout.strip() == "3"


@pytest.mark.slow
def test_the_defaults_train_an_adapter_also_where_nothing_comes_after_the_last_step(
    model: Path, tmp_path: Path
) -> None:
    """Stage 3, no rows held out: what ZeRO-3 has fetched for a next step is on its way when the weights are gathered."""
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{n}. Shall I compare thee to a summer day, or to {n * 7} others?\n" for n in range(110)))
    spec = {
        "model": {"uri": str(model)},
        "dataset": {"train": [{"uri": str(lines)}], "maxLength": 64},
        "training": {"globalBatchSize": 2, "precision": "FP32"},
        "checkpoint": {"everySteps": 0},
        "evaluation": {"everySteps": 0, "baseline": False},
    }
    job = tmp_path / "job.yaml"
    body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "lines"}, "spec": spec}
    job.write_text(yaml.safe_dump(body))
    ended = finetune(tmp_path, "run", str(job))
    assert ended.code == 0, ended.output
    assert (tmp_path / "runs" / "lines" / "result" / "adapter" / "adapter_model.safetensors").exists()
