"""Machines that are taken away while a run trains on them, as Kubernetes takes away a pod: SIGTERM to `ray start`, and
when the grace period is over SIGKILL to all of its processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli import command, environment, read_until, write_job, write_rows
from tests.tiny import write_model

RAY = str(Path(sys.executable).parent / "ray")
HEAD, FIRST, SECOND = "127.0.0.1", "127.0.0.2", "127.0.0.3"
STEPS = 900
DRAIN_SECONDS = 50


class Machines:
    """A head without CPUs, and Ray nodes with one each."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind((HEAD, 0))
            port = probe.getsockname()[1]
        self.address = f"{HEAD}:{port}"
        self._running: list[subprocess.Popen[str]] = []
        self._start("--head", f"--port={port}", f"--node-ip-address={HEAD}", "--num-cpus=0", "--include-dashboard=false",
                    f"--temp-dir={folder}")  # fmt: skip

    def worker(self, address: str) -> subprocess.Popen[str]:
        return self._start(f"--address={self.address}", f"--node-ip-address={address}", "--num-cpus=1")

    def _start(self, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [RAY, "start", "--block", "--object-store-memory=100000000", *options],
            env=environment(RAY_AUTH_MODE="disabled", RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=str(DRAIN_SECONDS)),
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._running.append(process)
        read_until(process, "--block")
        return process

    def end(self) -> None:
        for process in self._running:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process and all below it."""
    if process.poll() is None:
        for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            each.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


@pytest.fixture
def machines() -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # it has sockets
        found = Machines(short)
        try:
            yield found
        finally:
            found.end()


class Run:
    """A job on the cluster, and what its attempt leaves."""

    def __init__(self, folder: Path, address: str) -> None:
        self._job = write_job(
            folder, model=write_model(folder / "model", "llama"), data=write_rows(folder / "rows.jsonl"),
            training={"maxSteps": STEPS}, checkpoint={"everySteps": 5}, evaluation={"baseline": False},
            resources={"workers": 2, "gpusPerWorker": 0},
        )  # fmt: skip
        self._folder, self._address = folder, address

    def start(self, until: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("run", str(self._job)), cwd=self._folder, env=environment(RAY_ADDRESS=self._address), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        read_until(process, until)
        return process

    @property
    def folder(self) -> Path:
        return self._folder / "runs" / "tiny"

    def attempts(self) -> list[Path]:
        return sorted((self.folder / "attempts").iterdir())

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "attempts" / "1" / "metrics.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["event"] == kind]

    def failure(self) -> dict[str, Any]:
        failure: dict[str, Any] = json.loads((self.folder / "attempts" / "1" / "failure.json").read_text())
        return failure

    def saved(self) -> int:
        """The step of the last checkpoint that is committed."""
        return max(int(path.parent.name.split("-")[1]) for path in self.folder.glob("checkpoints/*/manifest.json"))


@pytest.mark.slow
@pytest.mark.timeout(600)  # three starts on a machine that may be busy
def test_machines_that_are_taken_away_are_replaced_and_a_driver_that_is_told_to_end_saves_first(
    machines: Machines, tmp_path: Path
) -> None:
    machines.worker(FIRST)
    second = machines.worker(SECOND)
    run = Run(tmp_path, machines.address)
    driver = run.start(f"Step 1/{STEPS}")

    # With notice: the step under way is saved.
    told = time.time()
    second.terminate()
    read_until(driver, "waiting for machines")
    step = run.events("Step")[-1]["step"]
    saved = run.events("CheckpointSaved")[-1]
    assert step == saved["step"] == run.saved() < STEPS
    second.communicate(timeout=DRAIN_SECONDS)  # it has ended by itself
    print(f"saved {saved['time'] - told:.1f} s after SIGTERM, Ray ended after {time.time() - told:.1f} s")
    assert time.time() - told < DRAIN_SECONDS / 2

    # When there is another machine, all go on there.
    second = machines.worker(SECOND)
    read_until(driver, f"Step {step + 1}/{STEPS}")
    why = run.events("Restarted")[0]["why"]
    assert why.startswith(f"Machine {SECOND} with rank ")
    assert why.endswith(f"Stopped after step {step}; its checkpoint is saved.")
    assert run.events("Resumed")[-1]["step"] == step

    # Without the time to save: the last checkpoint stands.
    second.terminate()
    time.sleep(0.1)  # Ray on that machine hears it and tells the others
    kill(second)
    read_until(driver, "waiting for machines")
    stands = run.saved()
    machines.worker(SECOND)
    read_until(driver, f"Step {stands + 1}/{STEPS}")
    assert "the last checkpoint that was saved stands" in run.events("Restarted")[1]["why"] or stands > step
    assert run.events("Resumed")[-1]["step"] == stands

    # The driver is told to end, again and again: by the kubelet, by Ray, by who deletes the pods.
    told = time.time()
    output = told_until_it_ends(driver)
    assert driver.returncode == 7, output
    saved = run.events("CheckpointSaved")[-1]
    assert run.events("Step")[-1]["step"] == saved["step"] == run.saved() < STEPS
    assert run.failure()["message"].startswith("The driver was told to end (SIGTERM). Stopped after step")
    print(f"saved {saved['time'] - told:.1f} s after SIGTERM, the driver ended after {time.time() - told:.1f} s")
    assert [path.name for path in run.attempts()] == ["1", "1.1", "1.2"]


def told_until_it_ends(driver: subprocess.Popen[str]) -> str:
    """SIGTERM all the while. Its output."""
    until = time.monotonic() + 60
    while True:
        driver.terminate()
        try:
            return driver.communicate(timeout=0.3)[0]
        except subprocess.TimeoutExpired:
            assert time.monotonic() < until, "the driver does not end"
