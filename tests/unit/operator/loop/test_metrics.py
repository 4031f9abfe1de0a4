"""What Prometheus is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from finetune_operator.api.status import FineTuneJobStatus, Phase
from finetune_operator.decide.usage import KINDS, added
from finetune_operator.loop.metrics import Metrics
from finetune_operator.loop.workqueue import WorkQueue
from finetune_operator.observe.store import Store
from finetune_operator.observe.views import view_job
from tests.unit.operator.worlds import job

JOB = view_job(job())


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(clock)


@pytest.fixture
def metrics(store: Store, queue: WorkQueue, clock: Clock) -> Metrics:
    return Metrics(store, queue, clock)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_the_time_in_a_phase_is_counted_when_the_job_leaves_it(metrics: Metrics, clock: Clock) -> None:
    metrics.saw(replace(JOB, phase="Pending"))
    clock.now += 10
    metrics.saw(replace(JOB, phase="Pending"))
    assert value(metrics, "finetune_phase_seconds_total", phase="Pending") is None
    clock.now += 5
    metrics.saw(replace(JOB, phase="Training"))
    assert value(metrics, "finetune_phase_seconds_total", phase="Pending") == 15
    clock.now += 60
    metrics.forget(JOB)
    assert value(metrics, "finetune_phase_seconds_total", phase="Training") == 60


def test_a_job_that_is_gone_counts_no_more(metrics: Metrics, clock: Clock) -> None:
    metrics.forget(JOB)
    metrics.saw(replace(JOB, phase="Pending"))
    clock.now += 1
    metrics.forget(JOB)
    clock.now += 10
    metrics.forget(JOB)
    metrics.saw(replace(JOB, phase="Training"))
    assert value(metrics, "finetune_phase_seconds_total", phase="Pending") == 1


def test_jobs_and_queue_are_read_when_they_are_asked_for(
    metrics: Metrics, store: Store, queue: WorkQueue, clock: Clock
) -> None:
    assert value(metrics, "finetune_jobs", phase="Training") == 0
    store.put(replace(JOB, phase="Training"))
    queue.add("team/plays")
    clock.now += 3
    assert value(metrics, "finetune_jobs", phase="Training") == 1
    assert value(metrics, "finetune_queue_depth") == 1
    assert value(metrics, "finetune_queue_oldest_seconds") == 3


def test_looks_and_requests_are_counted(metrics: Metrics) -> None:
    metrics.reconciled(0.02, failed=False)
    metrics.reconciled(0.5, failed=True)
    metrics.request("PATCH", "finetunejobs", 200)
    metrics.request("GET", "pods", 0)
    assert value(metrics, "finetune_reconciles_total", result="ok") == 1
    assert value(metrics, "finetune_reconciles_total", result="error") == 1
    assert value(metrics, "finetune_reconcile_seconds_sum") == 0.52
    assert value(metrics, "finetune_api_requests_total", method="PATCH", resource="finetunejobs", code="200") == 1
    assert value(metrics, "finetune_api_requests_total", method="GET", resource="pods", code="0") == 1


def test_each_phase_of_the_status_has_its_series(metrics: Metrics) -> None:
    described = FineTuneJobStatus.model_fields["phase"].description
    assert described
    assert all(phase in described for phase in Phase)
    text = generate_latest(metrics.registry).decode()
    assert [f'finetune_jobs{{phase="{phase}"}} 0.0' in text for phase in Phase] == [True] * len(Phase)


def test_time_is_counted_when_an_attempt_ends(metrics: Metrics) -> None:
    first = added(None, dict.fromkeys(KINDS, 0.0) | {"training": 60, "waiting": 5}, total=65, gpu_seconds=480)
    metrics.used(None, None)
    metrics.used(None, first)
    metrics.used(first, first)
    metrics.used(first, added(first, dict.fromkeys(KINDS, 0.0) | {"training": 40}, total=40, gpu_seconds=320))
    assert value(metrics, "finetune_attempt_seconds_total", kind="training") == 100
    assert value(metrics, "finetune_attempt_seconds_total", kind="waiting") == 5
    assert value(metrics, "finetune_gpu_seconds_total") == 800
