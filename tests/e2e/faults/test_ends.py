"""Faults that end a job, or that it lives through in a way of its own: each with a job of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from obstore.store import S3Store

from tests.cluster.faults import Faults
from tests.cluster.kubectl import Kubectl
from tests.e2e.faults.book import Book, Entry
from tests.e2e.faults.conftest import Model
from tests.e2e.faults.trial import RUNS, Trial
from tests.faulty import short_of_memory

pytestmark = pytest.mark.timeout(900)
Start = Callable[..., Trial]


@pytest.fixture
def start(jobs: Kubectl, model: Model, module_s3: S3Store) -> Iterator[Start]:
    """Start a job of a name, a model that does something before each forward pass, and other fields. It is gone after the
    test, whatever came of it."""

    def make(name: str, before: str, **changes: Any) -> Trial:
        trial = Trial(jobs, module_s3, name)
        fields = model(name, before) | {
            "training": {"maxSteps": 20, "globalBatchSize": 8, "microBatchSize": 4, "learningRate": 1e-4},
            "checkpoint": {"uri": RUNS, "everySteps": 5, "keep": 2},
            "deepspeed": {"stage": 2},
        }
        trial.start(**fields | changes)
        return trial

    yield make
    jobs("delete", "ftj", "--all", "--timeout=120s")
    while jobs.get("pods")["items"]:  # they would take the room of the next
        time.sleep(0.5)


def ended(trial: Trial, book: Book, fault: str, *, phase: str, seconds: int = 600) -> dict[str, Any]:
    """Wait for the end, and for its pods to be gone, and write it down."""
    status = trial.await_end(seconds=seconds)
    released = trial.seconds_until_gone(seconds=60)
    failure = status.get("failure", {})
    said = next(
        each["message"]
        for each in status["conditions"]
        if each["type"] == ("Complete" if phase == "Succeeded" else "Failed")
    )
    end = "Complete" if phase == "Succeeded" else f"Failed: {failure.get('class')}"
    book.write(Entry(fault, end, None, None, said, released))
    assert status["phase"] == phase, status
    return status


def test_memory_of_a_gpu_runs_out_once(start: Start, book: Book, jobs: Kubectl) -> None:
    trial = start("short", short_of_memory(tokens=128))
    status = ended(trial, book, "CUDA out of memory, once", phase="Succeeded")
    assert (status["memory"]["rung"], status["memory"]["microBatchSize"]) == (1, 2)
    assert status["attempt"] == 1
    events = [each for each in jobs.get("events")["items"] if each["reason"] == "MemoryRelieved"]
    assert events, "no Event tells of it"


def test_memory_of_a_gpu_runs_out_always(start: Start, book: Book) -> None:
    status = ended(start("none", short_of_memory(tokens=0)), book, "CUDA out of memory, always", phase="Failed")
    assert status["failure"]["class"] == "OutOfMemory"
    assert "Nothing is left to give up" in status["failure"]["message"]


@pytest.mark.parametrize(("by", "monitor_ms"), [("ray", "250"), ("kernel", "0")])
def test_host_memory_runs_out(start: Start, book: Book, by: str, monitor_ms: str) -> None:
    """5 GiB in a container with 4, as long as the micro batch has more than one sample. Ray's monitor is faster than the kernel,
    unless it is off."""
    hog = "if input_ids.numel() > 64: self.hog = bytearray(5 << 30)"
    trial = start(f"hog-{by}", hog, env=[{"name": "RAY_memory_monitor_refresh_ms", "value": monitor_ms}])
    status = ended(trial, book, f"worker out of host memory, killed by {by.replace('ray', 'Ray')}", phase="Succeeded")
    assert status["memory"]["rung"] >= 1


def test_the_loss_is_nan(start: Start, book: Book) -> None:
    spoil = """
        with torch.no_grad():
            next(self.parameters()).fill_(float("nan"))
    """
    status = ended(start("nan", spoil), book, "NaN loss", phase="Failed")
    assert (status["failure"]["class"], status["failure"]["reason"]) == ("User", "LossNotFinite")
    assert status["attempt"] == 1


def test_a_rank_that_ends_itself_in_the_users_code(start: Start, book: Book) -> None:
    trial = start("exits", "if os.environ.get('RANK') == '1': os._exit(1)", backoffLimit=5)
    status = ended(trial, book, "rank exits 1 in the user's code", phase="Failed", seconds=900)
    assert status["failure"]["reason"] == "WorkerLost"
    assert status["attempt"] == 2, "the same failure twice is enough"


def test_s3_goes_down_for_good(start: Start, on_jobs: Faults, book: Book) -> None:
    env = [{"name": "FINETUNE_STORE_PATIENCE_SECONDS", "value": "20"}]
    trial = start("no-s3", "time.sleep(0.5)", env=env, backoffLimit=0, training=training(400))
    trial.await_saved(0)
    with on_jobs.without_s3():
        status = ended(trial, book, "S3 down for good", phase="Failed")
    assert (status["failure"]["class"], status["failure"]["reason"]) == ("Infrastructure", "StoreUnavailable")
    assert trial.committed(), "what was committed is there when S3 is back"


def test_credentials_are_revoked(start: Start, on_jobs: Faults, book: Book) -> None:
    trial = start("revoked", "time.sleep(0.5)", training=training(400))
    trial.await_saved(0)
    with on_jobs.s3_fails(status=403):
        status = ended(trial, book, "credentials revoked mid-run", phase="Failed")
    assert (status["failure"]["class"], status["failure"]["reason"]) == ("User", "StoreAccessDenied")
    assert trial.committed()


def test_a_job_that_is_deleted_while_it_saves(start: Start, on_jobs: Faults, jobs: Kubectl, book: Book) -> None:
    trial = start("deleted", "time.sleep(0.5)", training=training(400))
    trial.await_saved(0)
    folder = trial.folder
    with on_jobs.s3_fails(bytes_per_second=100_000, methods="PUT"):
        while not on_jobs.s3_hits():
            time.sleep(0.2)
        jobs("delete", "ftj", trial.name, "--wait=false")
        released = trial.seconds_until_gone(seconds=60)
    book.write(Entry("job deleted mid-checkpoint", "gone, with all of its children", None, None, "", released))
    assert folder
    assert not jobs.get("rayjobs,rayclusters,configmaps", f"--selector=finetune.dev/job={trial.name}")["items"]


def training(steps: int) -> dict[str, Any]:
    return {"maxSteps": steps, "globalBatchSize": 8, "microBatchSize": 4, "learningRate": 1e-4}
