"""A job on the cluster that faults befall, as its user and its bucket see it.

In: a kubectl in the job's namespace, and the bucket. Out: what its status says, what its attempts have left, and how it went
on after each fault.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import obstore
import yaml
from obstore.store import S3Store

from tests.cluster.kubectl import Kubectl
from tests.cluster.layout import ROOT

_EXAMPLE = ROOT / "examples" / "finetunejob.yaml"
RUNS = "s3://finetune/runs"


@dataclass(frozen=True)
class Trial:
    """The job `name` in the namespace of `kubectl`."""

    kubectl: Kubectl
    store: S3Store
    name: str

    def start(self, **spec: Any) -> None:
        """The example with other fields."""
        body = yaml.safe_load(_EXAMPLE.read_text())
        body["metadata"]["name"] = self.name
        body["spec"] |= spec
        self.kubectl("apply", "--filename=-", stdin=json.dumps(body))

    # ── as its user sees it ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.get("ftj", self.name).get("status", {})
        return found

    @property
    def run(self) -> dict[str, Any]:
        """What the driver of the attempt of now has said."""
        status = self.status
        run: dict[str, Any] = status.get("run", {})
        return run if run.get("attempt") == status.get("attempt") else {}

    def watch(self, done: Callable[[dict[str, Any]], bool], *, seconds: int) -> dict[str, Any]:
        """The status as soon as `done` says so of it."""
        found = self.kubectl.watch("ftj", self.name, lambda job: done(job.get("status", {})), seconds=seconds)
        status: dict[str, Any] = found["status"]
        return status

    def await_saved(self, beyond: int, *, attempt: int = 1, restarts: int = 0, seconds: int = 300) -> int:
        """Wait until that attempt, or a later one, whose ranks were started again that often, trains and has committed a
        checkpoint after step `beyond` that is not the one it went on from. The step."""

        def saved(status: dict[str, Any]) -> bool:
            run = status.get("run", {})
            place = (run.get("attempt", 0), run.get("restarts", 0))
            step = run.get("checkpoint", {}).get("step", 0)
            trains = run.get("stage") == "Training" and place >= (attempt, restarts)
            return trains and step > max(beyond, run.get("resumedFromStep", 0))

        return int(self.watch(saved, seconds=seconds)["run"]["checkpoint"]["step"])

    def await_training(self) -> None:
        """Wait until the attempt of now trains."""

        def trains(status: dict[str, Any]) -> bool:
            run = status.get("run", {})
            return bool(run.get("stage") == "Training" and run["attempt"] == status["attempt"])

        self.watch(trains, seconds=300)

    def await_end(self, *, seconds: int) -> dict[str, Any]:
        return self.watch(lambda status: status.get("phase") in ("Succeeded", "Failed"), seconds=seconds)

    def pods(self, kind: str = "") -> list[dict[str, Any]]:
        """Its pods that are not told to end, of kind head or worker."""
        labels = f"finetune.dev/job={self.name}" + (f",ray.io/node-type={kind}" if kind else "")
        pods: list[dict[str, Any]] = self.kubectl.get("pods", f"--selector={labels}")["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, kind: str) -> str:
        return str(self.pods(kind)[0]["metadata"]["name"])

    def seconds_until_gone(self, *, seconds: float) -> float:
        """How long its pods are there yet."""
        began = time.monotonic()
        while self.kubectl.get("pods", f"--selector=finetune.dev/job={self.name}")["items"]:
            if time.monotonic() - began > seconds:
                raise AssertionError(self.kubectl("get", "pods,rayjobs,rayclusters"))
            time.sleep(0.5)
        return time.monotonic() - began

    # ── as its bucket has it ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def folder(self) -> str:
        uid = self.kubectl.get("ftj", self.name)["metadata"]["uid"]
        return f"runs/{self.kubectl.namespace}/{self.name}/{uid}"

    def keys(self, below: str = "") -> list[str]:
        """Its objects, relative to its folder."""
        prefix = f"{self.folder}/"
        found = obstore.list(self.store, f"{prefix}{below}").collect()
        return sorted(entry["path"].removeprefix(prefix) for entry in found)

    def bytes(self, key: str) -> bytes:
        return obstore.get(self.store, f"{self.folder}/{key}").bytes().to_bytes()

    def text(self, key: str) -> str:
        return self.bytes(key).decode()

    def committed(self) -> set[str]:
        """The checkpoints that have a manifest."""
        return {key.split("/")[1] for key in self.keys("checkpoints/") if key.endswith("/manifest.json")}

    def events(self) -> list[dict[str, Any]]:
        """Those of all attempts, in their order, each with its `attempt`."""
        numbers = sorted({int(key.split("/")[1]) for key in self.keys("attempts/") if key.endswith("/metrics.jsonl")})
        found = []
        for number in numbers:
            for line in self.text(f"attempts/{number}/metrics.jsonl").splitlines():
                found.append(json.loads(line) | {"attempt": number})
        return found


@dataclass(frozen=True)
class Learnt:
    """What a step has learnt from, and how well. `rows`: the checksum of the ids of its rows."""

    rows: str
    tokens: int
    loss: float


def learnt(events: list[dict[str, Any]]) -> dict[int, Learnt]:
    """Of each step. Of one that was done again the last one counts."""
    steps = (each for each in events if each["event"] == "Step")
    return {each["step"]: Learnt(each["rows"], each["tokens"], each["loss"]) for each in steps}
