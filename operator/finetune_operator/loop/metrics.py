"""What Prometheus is told. Names follow https://prometheus.io/docs/practices/naming/

In: what the controller does. Out: `/metrics`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from finetune_operator.api.status import Phase, UsageStatus
from finetune_operator.decide.usage import KINDS, seconds_of
from finetune_operator.loop.workqueue import WorkQueue
from finetune_operator.observe.store import Store
from finetune_operator.observe.views import JobView

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Of one operator."""

    def __init__(self, store: Store, queue: WorkQueue, clock: Callable[[], float] = time.monotonic) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._clock = clock
        self._phases: dict[str, tuple[str, float]] = {}
        jobs = Gauge("finetune_jobs", "FineTuneJobs by phase.", ["phase"], registry=self.registry)
        for phase in Phase:
            jobs.labels(phase).set_function(partial(store.phases.__getitem__, phase))
        depth = Gauge("finetune_queue_depth", "Jobs that wait to be looked at.", registry=self.registry)
        depth.set_function(lambda: len(queue))
        age = Gauge("finetune_queue_oldest_seconds", "How long the first of them has waited.", registry=self.registry)
        age.set_function(lambda: queue.oldest)
        self._reconciles = Counter("finetune_reconciles", "Looks at a job.", ["result"], registry=self.registry)
        self._latency = Histogram(
            "finetune_reconcile_seconds",
            "Time for one look, requests included.",
            registry=self.registry,
            buckets=_LATENCY,
        )
        self.bugs = Counter(
            "finetune_bugs", "Looks that ended in an error of the operator's own.", registry=self.registry
        )
        self._requests = Counter(
            "finetune_api_requests", "Requests to the API server; code 0: no answer.", ["method", "resource", "code"],
            registry=self.registry,
        )  # fmt: skip
        self.attempts = Counter(
            "finetune_attempts",
            "Attempts that ended, by failure class, or by reason where they did not fail.",
            ["class"],
            registry=self.registry,
        )
        self._in_phase = Counter(
            "finetune_phase_seconds", "Seconds that jobs have spent in each phase, counted when they leave it.", ["phase"],
            registry=self.registry,
        )  # fmt: skip

        self._seconds = Counter(
            "finetune_attempt_seconds", "Seconds of attempts, counted when they end, by what they were for.", ["kind"],
            registry=self.registry,
        )  # fmt: skip
        self._gpu_seconds = Counter(
            "finetune_gpu_seconds", "GPU-seconds of attempts, counted when they end.", registry=self.registry
        )

    def serve(self, port: int) -> None:
        """`/metrics`, from a thread of its own."""
        start_http_server(port, registry=self.registry)

    def request(self, method: str, resource: str, code: int) -> None:
        """A request to the API server was answered, or was not (code 0)."""
        self._requests.labels(method, resource, str(code)).inc()

    def reconciled(self, seconds: float, *, failed: bool) -> None:
        """A job was looked at."""
        self._reconciles.labels("error" if failed else "ok").inc()
        self._latency.observe(seconds)

    def used(self, before: UsageStatus | None, after: UsageStatus | None) -> None:
        """A job's `status.usage` has grown."""
        if after is None:
            return
        for kind in KINDS:
            self._seconds.labels(kind).inc(max(0, seconds_of(after, kind) - seconds_of(before, kind)))
        self._gpu_seconds.inc(max(0, after.gpu_seconds - (before.gpu_seconds if before else 0)))

    def saw(self, job: JobView) -> None:
        """A job is in its phase."""
        before, since = self._phases.get(job.uid, ("", 0.0))
        if before != job.phase:
            if before:
                self._in_phase.labels(before).inc(self._clock() - since)
            self._phases[job.uid] = (job.phase, self._clock())

    def forget(self, job: JobView) -> None:
        """A job is gone."""
        before, since = self._phases.pop(job.uid, ("", 0.0))
        if before:
            self._in_phase.labels(before).inc(self._clock() - since)
