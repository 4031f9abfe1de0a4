"""From any exception to a class, a reason and a remedy."""

from __future__ import annotations

import errno
import json
import pickle

import pytest
import ray.exceptions
import torch
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from finetune_training.contract.failure import FailureClass, Terminated, classify, data_error, user_error


@pytest.mark.parametrize(
    ("error", "cls", "reason"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            FailureClass.OUT_OF_MEMORY,
            "OutOfMemory",
        ),
        (MemoryError(), FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            FailureClass.OUT_OF_MEMORY,
            "OutOfMemory",
        ),
        (ray.exceptions.OutOfMemoryError("killed"), FailureClass.OUT_OF_MEMORY, "OutOfMemory"),
        (ray.exceptions.WorkerCrashedError(), FailureClass.INFRASTRUCTURE, "WorkerLost"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), FailureClass.INFRASTRUCTURE, "DiskFull"),
        (ConnectionResetError("peer"), FailureClass.INFRASTRUCTURE, "Network"),
        (torch.distributed.DistNetworkError("lost"), FailureClass.INFRASTRUCTURE, "Collective"),
        (
            RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
            FailureClass.INFRASTRUCTURE,
            "Collective",
        ),
        (KeyboardInterrupt(), FailureClass.INTERRUPTED, "Interrupted"),
        (Terminated("told to end"), FailureClass.PREEMPTED, "Preempted"),
        (ValueError("whatever"), FailureClass.UNKNOWN, "Unknown"),
        (data_error("BadRow", "row 3"), FailureClass.DATA, "BadRow"),
    ],
)
def test_errors_are_known_by_their_type(error: BaseException, cls: FailureClass, reason: str) -> None:
    failure = classify(error, rank=1)
    assert (failure.cls, failure.reason) == (cls, reason)
    assert failure.rank == 1


def test_memory_that_has_run_out_comes_before_what_it_did_to_others() -> None:
    """As Ray Train wraps what its memory monitor has done to a worker."""
    killed = ray.exceptions.OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.")
    failure = classify(WorkerHealthCheckFailedError("A worker health check failed.", failure=killed), rank=1)
    assert (failure.cls, failure.rank) == (FailureClass.OUT_OF_MEMORY, 1)


def test_a_cause_inside_another_error_is_found() -> None:
    error = RuntimeError("outer")
    error.__cause__ = user_error("BadSpec", "no", "mend it")
    assert classify(error).reason == "BadSpec"


def test_rays_wrapper_shows_what_is_inside() -> None:
    inner = data_error("BadRow", "row 3")
    assert classify(ray.exceptions.RayTaskError("f", "traceback", inner)).reason == "BadRow"


def test_an_error_survives_the_way_between_processes() -> None:
    error = user_error("BadSpec", "no", "mend it", detail="more")
    assert pickle.loads(pickle.dumps(error)).failure == error.failure


def test_a_failure_as_json_has_the_names_of_the_api() -> None:
    body = json.loads(user_error("BadSpec", "no", "mend it").failure.to_json())
    assert (body["class"], body["reason"], body["message"], body["remedy"]) == ("User", "BadSpec", "no", "mend it")
