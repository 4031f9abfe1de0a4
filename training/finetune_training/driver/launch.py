"""The ranks of an attempt as Ray Train workers, once: from their start to their end.

In: a `Task`. Out: its events, as they happen, and at the end what came of it: trained, or a `Failure` that says why not.
Ray is embedded (this process starts and ends it) unless RAY_ADDRESS names a cluster. One actor, the `Line` (line.py), carries
events from the ranks to the driver, and back the wish to stop.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray

from finetune_training.contract.failure import Failure, FinetuneError
from finetune_training.driver.hang import end_hanging
from finetune_training.driver.listen import Draining, Message, Signalled, listen
from finetune_training.driver.outcome import outcome
from finetune_training.driver.ray_cluster import LOOK_SECONDS, draining_watched, free_places, on_node, on_nodes
from finetune_training.driver.signals import signals_to, told_to_end
from finetune_training.events.progress import Event, Trained
from finetune_training.worker.container import HostMemory, host_memory
from finetune_training.worker.line import LAST, Line
from finetune_training.worker.rank import run_rank
from finetune_training.worker.task import Task

logger = logging.getLogger(__name__)
_ANSWER_SECONDS: Final = 10.0


def launch(task: Task, *, spread: bool, folder: Path, on_event: Callable[[Event], None]) -> Trained:
    """Run the task's ranks; with `spread` each on a machine of its own. Ctrl-C, SIGTERM, or a machine of theirs that is
    told to end: they save a checkpoint and stop. A second Ctrl-C ends it at once. Ranks that do not move any more are ended;
    their stacks are in `folder` then. Raises a FinetuneError with what has failed first."""
    # Here, where it is lost only together with the driver: a machine of ranks that is lost must not take the line along.
    here = on_node(ray.get_runtime_context().get_node_id())
    line = ray.remote(num_cpus=0)(Line).options(scheduling_strategy=here).remote()
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    ended: list[BaseException] = []
    threads = [
        threading.Thread(target=_pump, args=(line, messages), name="events", daemon=True),
        threading.Thread(target=_fit, args=(task, spread, line, ended), name="ray-train", daemon=True),
    ]
    with (
        signals_to(lambda number: messages.put(Signalled(number))),
        draining_watched(lambda nodes: messages.put(Draining(nodes))),
    ):
        for thread in threads:
            thread.start()
        heard = listen(
            messages,
            on_event,
            stop=lambda: line.stop.remote(),
            on_hang=lambda heard, seconds: end_hanging(task, heard.places, folder, seconds=seconds, step=heard.step),
        )
        threads[-1].join()
    with suppress(ray.exceptions.RayError):  # it may be gone with the cluster
        ray.kill(line)
    came_of_it = outcome(heard, ended, _memory_on, told_to_end=told_to_end())
    if isinstance(came_of_it, Failure):
        raise FinetuneError(came_of_it)
    return came_of_it


def _pump(line: Any, messages: queue.SimpleQueue[Message]) -> None:
    """Ray's calls cannot be interrupted without losing their answer, so the driver's thread waits on a queue of its
    own."""
    while True:
        try:
            batch = ray.get(line.drain.remote())
        except Exception:
            logger.exception("The line to the ranks is cut")
            batch = [LAST]
        for message in batch:
            messages.put(message)
            if message is LAST:
                return


def _fit(task: Task, spread: bool, line: Any, ended: list[BaseException]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = {"CPU": 1, "GPU": 1} if task.on_gpu else {"CPU": 1}
    try:
        TorchTrainer(
            run_rank,
            train_loop_config={"task": task, "line": line},
            scaling_config=ScalingConfig(
                num_workers=task.ranks,
                use_gpu=task.on_gpu,
                resources_per_worker=resources,
                # STRICT: when the first machine is up and the next is not yet, SPREAD would put all ranks on the first.
                placement_strategy="STRICT_SPREAD" if spread else "PACK",
            ),
            run_config=RunConfig(
                name=f"attempt-{task.turn}",
                # For what Ray Train keeps of its own. It would share checkpoints there; ours go to the store themselves.
                storage_path=str(task.staging / "ray"),
                # Starting again is ours (repair.py): it needs a turn of its own in the store.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        ).fit()
    except BaseException as error:  # handed to the driver's thread
        logger.exception("Ray Train ended with an error")
        ended.append(error)
        try:
            free_places()
        except (
            Exception
        ):  # as when the cluster is gone; the driver waits for the end of the line, whatever happens here
            logger.warning("Room on the cluster may still be kept for ranks that are gone", exc_info=True)
        time.sleep(2 * LOOK_SECONDS)  # if it is for a node that was told to end, the driver hears of that first
    with suppress(ray.exceptions.RayError):  # then the line is cut, and the driver knows
        ray.get(line.end.remote())


def _memory_on(nodes: Iterable[str]) -> Mapping[str, HostMemory]:
    return on_nodes(_memory, dict.fromkeys(nodes), seconds=_ANSWER_SECONDS)


def _memory(_: None) -> HostMemory:
    return host_memory()
