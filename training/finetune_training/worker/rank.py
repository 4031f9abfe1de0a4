"""One rank as a Ray Train worker.

In: a `Task`, in a process that Ray has started. Out: `worker.train` is called with a context made of Ray's; what it reports,
and its last word if it fails, go down the line. What the process prints is the rank's log, which is brought to the store
while it runs: a rank that is killed has nothing to bring any more.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from finetune_training.contract.failure import classify
from finetune_training.events.progress import Report
from finetune_training.store.shipping import shipped
from finetune_training.worker.container import host_memory
from finetune_training.worker.line import Place, RankFailed, RankPlaced
from finetune_training.worker.stacks import listening
from finetune_training.worker.task import Context, Task
from finetune_training.worker.worker import train


def stacks_path(task: Task, rank: int) -> Path:
    """Where a rank writes its stacks, on its machine."""
    return task.staging / f"stacks-{rank}.txt"


def run_rank(config: dict[str, Any]) -> None:
    """The train function that Ray Train calls in each worker. `config`: `task` and `line`."""
    from ray import train as ray_train

    task, line = config["task"], config["line"]
    ray_context = ray_train.get_context()
    rank = ray_context.get_world_rank()

    def report(event: Report) -> bool:
        return bool(ray.get(line.tell.remote(event)))

    task.staging.mkdir(parents=True, exist_ok=True)
    with _log_of_rank(rank, task), listening(stacks_path(task, rank)):
        place = Place(
            ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), os.getpid(), host_memory().kills
        )
        print(f"Rank {rank} of {task.ranks} on {place.address}, pid {place.pid}")
        ray.get(line.tell.remote(RankPlaced(rank, place)))
        try:
            train(task, Context(rank, ray_context.get_world_size(), ray_context.get_local_rank(), report))
        except BaseException as error:
            traceback.print_exc()
            ray.get(line.tell.remote(RankFailed(classify(error, rank=rank), traceback.format_exc())))
            raise


@contextmanager
def _log_of_rank(rank: int, task: Task) -> Iterator[None]:
    """Everything this process prints goes to the rank's log."""
    folder = task.store.folder / "attempts" / str(task.turn) if task.store.folder else task.staging
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank}.log"
    with path.open("w", buffering=1, encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        with shipped(task.store, f"attempts/{task.turn}", [path]):
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
