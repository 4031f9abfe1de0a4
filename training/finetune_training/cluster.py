"""Where the ranks run: Ray of our own, or a cluster that is there.

In: the spec, `--workers`, RAY_ADDRESS. Out: Ray, connected, and how many ranks on what; ended again when it was started
here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from finetune_training.failure import user_error
from finetune_training.spec import RunSpec

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """Where the ranks run."""

    ranks: int
    on_gpu: bool


@contextmanager
def ray_session(*, cpus: int = 1) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start Ray here, with room for `cpus` tasks at a time, and end it
    afterwards."""
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
    if is_embedded():
        quiet |= {"address": "local", "num_cpus": max(os.cpu_count() or 1, cpus), "include_dashboard": False}
    ray.init(**quiet)
    try:
        yield
    finally:
        ray.shutdown()


def cluster_for(spec: RunSpec, *, workers: int | None) -> Cluster:
    """How many ranks, on what. On a cluster the spec says so; here `--workers`, or one for each GPU."""
    if not is_embedded():
        return Cluster(workers or spec.resources.ranks, spec.resources.gpus_per_worker > 0)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and workers and workers > gpus:
        raise user_error(
            "NotEnoughGPUs", f"--workers {workers}, but there are {gpus} GPUs.", f"Use --workers {gpus} or fewer."
        )
    return Cluster(workers or max(1, gpus), gpus > 0)


def is_embedded() -> bool:
    """Whether Ray is started here rather than found at RAY_ADDRESS."""
    return not os.environ.get("RAY_ADDRESS")


def run_task(function: Callable[[Argument], Result], argument: Argument, *, on_gpu: bool) -> Result:
    """Run `function` once on a machine like a worker's."""
    task = ray.remote(function).options(num_cpus=1, num_gpus=1 if on_gpu else 0)
    result: Result = ray.get(task.remote(argument))
    return result
