"""The operator as a process of its own: started, watched from outside, stopped.

In: a kubeconfig and a namespace. Out: what `/proc` says of its CPU time and memory, and what its `/metrics` says of its work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
_SECONDS_PER_TICK = 1 / os.sysconf("SC_CLK_TCK")
Request = tuple[str, str]
"""Method and resource; an empty resource is any."""
WRITES: tuple[Request, ...] = tuple((method, "") for method in ("POST", "PATCH", "PUT", "DELETE"))
READS: tuple[Request, ...] = (("GET", ""),)


@dataclass(frozen=True)
class Scrape:
    """`/metrics` at one moment, or the difference of two."""

    samples: Mapping[tuple[str, Labels], float]

    def __sub__(self, earlier: Scrape) -> Scrape:
        return Scrape({key: value - earlier.samples.get(key, 0.0) for key, value in self.samples.items()})

    def total(self, name: str, fits: Callable[[dict[str, str]], bool] = lambda _: True) -> float:
        """The sum of all series of `name` whose labels fit."""
        return sum(value for (each, labels), value in self.samples.items() if each == name and fits(dict(labels)))

    def requests(self, wanted: Iterable[Request]) -> int:
        """How many of them were answered with success."""

        either = set(wanted)

        def fits(labels: dict[str, str]) -> bool:
            request = labels["method"], labels["resource"]
            return labels["code"].startswith("2") and (request in either or (request[0], "") in either)

        return int(self.total("finetune_api_requests_total", fits))

    @property
    def refused(self) -> int:
        """Requests without success, but for objects that were not there."""

        def fits(labels: dict[str, str]) -> bool:
            return labels["code"] != "404" and not labels["code"].startswith("2")

        return int(self.total("finetune_api_requests_total", fits))

    @property
    def waiting(self) -> int:
        """Jobs that wait to be looked at."""
        return int(self.total("finetune_queue_depth"))

    def milliseconds(self, quantile: float) -> float | None:
        """Of the reconciles: between two bounds of the histogram as if they were spread evenly."""
        name = "finetune_reconcile_seconds_bucket"
        buckets = sorted(
            (float(dict(labels)["le"]), count) for (each, labels), count in self.samples.items() if each == name
        )
        wanted, below, lower = quantile * buckets[-1][1], 0.0, 0.0
        for bound, count in buckets:
            if count >= wanted > 0 and count > below:
                upper = lower if bound == float("inf") else bound
                return round(1000 * (lower + (upper - lower) * (wanted - below) / (count - below)), 2)
            below, lower = count, bound
        return None


class OperatorProcess:
    """`python -m finetune_operator`, with what it prints in a log."""

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str, ports: Sequence[int]) -> None:
        health, self._port = ports
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_PLATFORM_FILE": str(folder / "platform.yaml"),
            "FINETUNE_NAMESPACES": namespace,
            "FINETUNE_HEALTH_PORT": str(health),
            "FINETUNE_METRICS_PORT": str(self._port),
        }
        with (folder.parent / "operator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"], env=os.environ | environment, stdout=log, stderr=log
            )

    def scrape(self) -> Scrape:
        """Its metrics now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        return Scrape(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for family in families
                for sample in family.samples
            }
        )

    def ready(self) -> bool:
        """Whether it has looked at everything once: that ends with a list of jobs."""
        if self._process.poll() is not None:
            raise SystemExit("The operator has ended: see build/bench/operator.log.")
        try:
            return self.scrape().requests([("GET", "finetunejobs")]) > 0
        except urllib.error.URLError:
            return False

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)

    @property
    def peak_megabytes(self) -> float:
        """The most memory that it has had."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(kibibytes) * 1024 / 1e6

    def __enter__(self) -> OperatorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM, as a node sends it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _SECONDS_PER_TICK
