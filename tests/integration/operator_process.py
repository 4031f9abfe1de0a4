"""The operator as a process beside a test, and a hand that does what KubeRay and the driver would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.steps import until

HAND = "hand"
"""By this user agent the proxy knows that a request is not the operator's."""
_JOBS, _RAY = "finetune.dev/v1alpha1", "ray.io/v1"

PLATFORM = {
    "gpuPools": {"gpu": {"nodeSelector": {"finetune.dev/pool": "gpu"}, "gpusPerNode": 4}},
    "checkpointUri": "s3://models",
}


@dataclass
class Operator:
    """One operator, and its successors when it is killed."""

    kubeconfig: Path
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    health: int = 0
    metrics: int = 0

    def start(self) -> None:
        """Start it. What it prints is in `folder`/operator.log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        platform = self.folder / "platform.yaml"
        platform.write_text(yaml.safe_dump(PLATFORM))
        self.health, self.metrics = _free_port(), _free_port()
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "FINETUNE_PLATFORM_FILE": str(platform),
            "FINETUNE_HEALTH_PORT": str(self.health),
            "FINETUNE_METRICS_PORT": str(self.metrics),
            **self.environment,
        }
        with (self.folder / "operator.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"], env=environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all series that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = (
            line for line in lines if line.startswith((f"{name} ", f"{name}{{")) and all(w in line for w in wanted)
        )
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def healthy(self) -> int:
        """The status of /healthz; 0: no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/healthz", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def log(self) -> str:
        return (self.folder / "operator.log").read_text()


@contextmanager
def operator(kubeconfig: Path, folder: Path, **environment: str) -> Iterator[Operator]:
    """An operator that runs until the block ends."""
    running = Operator(kubeconfig, folder, environment)
    running.start()
    try:
        yield running
    finally:
        if running.runs:
            running.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def manifest(name: str, **spec: Any) -> dict[str, Any]:
    """A FineTuneJob that any test may have."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M"},
            "dataset": {"train": [{"uri": "s3://data/plays/*.jsonl"}]},
            "resources": {"pool": "gpu", "workers": 2},
            **spec,
        },
    }


@dataclass(frozen=True)
class Hand:
    """What the users, KubeRay and the driver do in one namespace, by plain requests to `url`."""

    url: str
    namespace: str

    def create(self, name: str, **spec: Any) -> None:
        """A user's `kubectl create`."""
        self._ask("POST", _JOBS, "finetunejobs", body=manifest(name, **spec))

    def change(self, name: str, **spec: Any) -> None:
        """A user's `kubectl patch`."""
        self._ask("PATCH", _JOBS, f"finetunejobs/{name}", body={"spec": spec}, kind="merge-patch+json")

    def set_rayjob(self, name: str, deployment: str, status: str, **more: Any) -> None:
        """What KubeRay writes."""
        body = {"status": {"jobDeploymentStatus": deployment, "jobStatus": status, **more}}
        self._ask("PATCH", _RAY, f"rayjobs/{name}/status", body=body, kind="merge-patch+json")

    def set_run(self, name: str, **run: Any) -> None:
        """What the driver writes."""
        body = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name},
            "status": {"run": {"updatedAt": "2026-01-01T00:00:00Z", **run}},
        }
        query = "?fieldManager=finetune-driver&force=true"
        self._ask("PATCH", _JOBS, f"finetunejobs/{name}/status{query}", body=body, kind="apply-patch+yaml")

    def status(self, name: str) -> dict[str, Any]:
        """A job's status; empty before there is one."""
        found: dict[str, Any] = self._ask("GET", _JOBS, f"finetunejobs/{name}").get("status", {})
        return found

    def rayjobs(self) -> dict[str, dict[str, Any]]:
        """The RayJobs, by name."""
        return {each["metadata"]["name"]: each for each in self._ask("GET", _RAY, "rayjobs")["items"]}

    def await_status(self, name: str, done: Callable[[dict[str, Any]], bool], *, seconds: float = 60) -> dict[str, Any]:
        """The job's status as soon as `done` says so of it."""
        last: dict[str, Any] = {}
        for _ in until(seconds):
            last = self.status(name)
            if done(last):
                return last
        raise AssertionError(f"{name} is not as wanted after {seconds} s; its status: {json.dumps(last, indent=1)}")

    def await_phase(self, name: str, phase: str, *, seconds: float = 60) -> dict[str, Any]:
        """The job's status as soon as it is in `phase`."""
        return self.await_status(name, lambda status: status.get("phase") == phase, seconds=seconds)

    def _ask(
        self, method: str, group: str, what: str, *, body: dict[str, Any] | None = None, kind: str = "json"
    ) -> dict[str, Any]:
        """An answer that is an error raises HTTPError."""
        request = urllib.request.Request(
            f"{self.url}/apis/{group}/namespaces/{self.namespace}/{what}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": f"application/{kind}", "User-Agent": HAND},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found
