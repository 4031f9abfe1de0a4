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

from benchmarks.operator_requests import Request
from benchmarks.waiting import Failed, Seen, end_of, gave_up
from finetune_operator import names

Labels = tuple[tuple[str, str], ...]
_SECONDS_PER_TICK = 1 / os.sysconf("SC_CLK_TCK")
_END_SECONDS = 60.0
_REQUESTS, _DEPTH, _RECONCILES = "finetune_api_requests_total", "finetune_queue_depth", "finetune_reconciles_total"
_LATENCY = "finetune_reconcile_seconds_bucket"
WRITES: tuple[Request, ...] = tuple((method, "") for method in ("POST", "PATCH", "PUT", "DELETE"))
READS: tuple[Request, ...] = (("GET", ""),)


@dataclass(frozen=True)
class Scrape:
    """`/metrics` at one moment, or the difference of two. `metrics`: the names that the operator has, with samples or without."""

    samples: Mapping[tuple[str, Labels], float]
    metrics: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Scrape:
        """As Prometheus is told."""
        families = list(text_string_to_metric_families(text))
        samples = [sample for family in families for sample in family.samples]
        return cls(
            {(each.name, tuple(sorted(each.labels.items()))): each.value for each in samples},
            frozenset(family.name for family in families),
        )

    def __sub__(self, earlier: Scrape) -> Scrape:
        changed = {key: value - earlier.samples.get(key, 0.0) for key, value in self.samples.items()}
        return Scrape(changed, self.metrics)

    def total(self, name: str, fits: Callable[[dict[str, str]], bool] = lambda _: True) -> float:
        """The sum of all series of `name` whose labels fit. A metric that the operator does not have is an error, not 0."""
        if name.removesuffix("_total") not in self.metrics:
            raise Failed(f"the operator has no metric {name} any more: mend {Path(__file__).name}")
        return sum(value for (each, labels), value in self.samples.items() if each == name and fits(dict(labels)))

    def requests(self, wanted: Iterable[Request]) -> int:
        """How many of them were answered with success."""

        either = set(wanted)

        def fits(labels: dict[str, str]) -> bool:
            request = labels["method"], labels["resource"]
            return labels["code"].startswith("2") and (request in either or (request[0], "") in either)

        return int(self.total(_REQUESTS, fits))

    @property
    def refused(self) -> int:
        """Requests without success, but for objects that were not there."""

        def fits(labels: dict[str, str]) -> bool:
            return labels["code"] != "404" and not labels["code"].startswith("2")

        return int(self.total(_REQUESTS, fits))

    @property
    def waiting(self) -> int:
        """Jobs that wait to be looked at."""
        return int(self.total(_DEPTH))

    @property
    def looks(self) -> int:
        """Looks at a job."""
        return int(self.total(_RECONCILES))

    def milliseconds(self, quantile: float) -> float | None:
        """Of the reconciles: between two bounds of the histogram as if they were spread evenly."""
        buckets = sorted(
            (float(dict(labels)["le"]), count) for (each, labels), count in self.samples.items() if each == _LATENCY
        )
        if not buckets:
            raise Failed(f"the operator has no metric {_LATENCY} any more: mend {Path(__file__).name}")
        wanted, below, lower = quantile * buckets[-1][1], 0.0, 0.0
        for bound, count in buckets:
            if count >= wanted > 0 and count > below:
                upper = lower if bound == float("inf") else bound
                return round(1000 * (lower + (upper - lower) * (wanted - below) / (count - below)), 2)
            below, lower = count, bound
        return None


class OperatorProcess:
    """`python -m finetune_operator`, with what it prints in a log."""

    def __init__(self, kubeconfig: Path, platform: Path, namespace: str, ports: Sequence[int], log: Path) -> None:
        health, self._port = ports
        self._log = log
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_PLATFORM_FILE": str(platform),
            "FINETUNE_NAMESPACES": namespace,
            "FINETUNE_HEALTH_PORT": str(health),
            "FINETUNE_METRICS_PORT": str(self._port),
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"], env=os.environ | environment, stdout=output, stderr=output
            )

    def scrape(self) -> Scrape:
        """Its metrics now. Raises Failed."""
        try:
            return self._fetch()
        except OSError as error:
            self._check()
            raise Failed(f"the operator does not tell its metrics ({error}). {end_of(self._log)}") from error

    def ready(self) -> Seen:
        """Whether it has looked at everything once: that ends with a list of jobs. Raises Failed."""
        self._check()
        try:
            listed = self._fetch().requests([("GET", names.PLURAL)])
        except urllib.error.URLError as error:  # it does not listen yet
            return Seen(False, f"no metrics: {error.reason}")
        return Seen(listed > 0, f"{listed} lists of {names.PLURAL}")

    def _fetch(self) -> Scrape:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            return Scrape.of(answer.read().decode())

    def _check(self) -> None:
        if (code := self._process.poll()) is not None:
            raise Failed(f"the operator has ended with {code}. {end_of(self._log)}")

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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """SIGTERM, as a node sends it. One that does not end is an error, unless there is one already."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            if kind is None:
                raise gave_up("the operator to end after SIGTERM", _END_SECONDS, end_of(self._log)) from None


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _SECONDS_PER_TICK
