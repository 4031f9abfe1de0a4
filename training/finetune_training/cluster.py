"""Where the ranks run: Ray of our own, or a cluster that is there.

In: the spec, `--workers`, RAY_ADDRESS. Out: Ray, connected, and how many ranks on what; ended again when it was started here.
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
def ray_cluster(spec: RunSpec, *, workers: int | None) -> Iterator[Cluster]:
    """Connect to the cluster of RAY_ADDRESS, or start Ray here and end it afterwards."""
    embedded = not os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
    if embedded:
        cpus = max(os.cpu_count() or 1, (workers or 1) + 1)  # Ray Data starves when the ranks own every CPU (ray#44687)
        ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
    else:
        ray.init(**quiet)
    try:
        yield _cluster(spec, workers=workers, embedded=embedded)
    finally:
        ray.shutdown()


def run_task(function: Callable[[Argument], Result], argument: Argument, *, on_gpu: bool) -> Result:
    """Run `function` once on a machine like a worker's."""
    task = ray.remote(function).options(num_cpus=1, num_gpus=1 if on_gpu else 0)
    result: Result = ray.get(task.remote(argument))
    return result


def _cluster(spec: RunSpec, *, workers: int | None, embedded: bool) -> Cluster:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if not embedded:
        on_gpu = spec.resources.gpus_per_worker > 0
        return Cluster(workers or spec.resources.ranks, on_gpu)
    if gpus and workers and workers > gpus:
        raise user_error(
            "NotEnoughGPUs", f"--workers {workers}, but there are {gpus} GPUs.", f"Use --workers {gpus} or fewer."
        )
    return Cluster(workers or max(1, gpus), gpus > 0)
