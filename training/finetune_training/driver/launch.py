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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from finetune_training.contract.failure import AGAIN, Failure, FailureClass, FinetuneError, Reason
from finetune_training.driver.listen import Draining, Heard, Message, Signalled, first_cause, listen
from finetune_training.driver.preemption import DRIVER_TOLD, LOSSES, explained, stopped
from finetune_training.driver.ray_cluster import LOOK_SECONDS, draining_watched, free_places, on_node, on_nodes
from finetune_training.driver.signals import signals_to, told_to_end
from finetune_training.events.progress import Event, Trained
from finetune_training.worker.container import HostMemory, host_memory
from finetune_training.worker.line import LAST, Line, Place
from finetune_training.worker.rank import run_rank, stacks_path
from finetune_training.worker.stacks import Found, collect, culprit, end, told
from finetune_training.worker.task import Task

logger = logging.getLogger(__name__)
STACKS = "stacks.txt"
_ANSWER_SECONDS = 10.0


def launch(task: Task, *, spread: bool, folder: Path, on_event: Callable[[Event], None]) -> Trained:
    """Run the task's ranks; with `spread` each on a machine of its own. Ctrl-C, SIGTERM, or a machine of theirs that is
    told to end: they save a checkpoint and stop. A second Ctrl-C ends it at once. Ranks that do not move any more are ended;
    their stacks are in `folder` then. Raises a FinetuneError."""
    # Here, where it is lost only together with the driver: a machine of ranks that is lost must not take the line along.
    here = on_node(ray.get_runtime_context().get_node_id())
    line = ray.remote(num_cpus=0)(Line).options(scheduling_strategy=here).remote()
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    outcome: list[BaseException] = []
    found: list[Found] = []
    threads = [
        threading.Thread(target=_pump, args=(line, messages), name="events", daemon=True),
        threading.Thread(target=_fit, args=(task, spread, line, outcome), name="ray-train", daemon=True),
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
            on_hang=lambda heard: found.extend(_end_hanging(task, heard.places, folder)),
        )
        threads[-1].join()
    with suppress(ray.exceptions.RayError):  # it may be gone with the cluster
        ray.kill(line)
    if heard.hung:
        raise FinetuneError(_hang(heard.hung, found, f"{task.store.uri}/attempts/{task.turn.attempt}/{STACKS}"))
    if heard.trained and (heard.trained.interrupted or told_to_end()):
        # The checkpoint is there, whatever has become of the ranks since. After the last step, too: to answer and to export
        # takes longer than there is time.
        by_user = heard.asked and heard.stopped_by is None
        by = DRIVER_TOLD if told_to_end() and not by_user else heard.stopped_by
        raise FinetuneError(stopped(heard.trained.step, by))
    if heard.trained is None or heard.failed or outcome:
        raise FinetuneError(_explained(heard, outcome))
    return heard.trained


def _explained(heard: Heard, outcome: list[BaseException]) -> Failure:
    failure = explained(first_cause(heard.failed, outcome), heard.taken)
    return _short_of_memory(failure, heard.places) or failure if failure.reason in LOSSES else failure


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


def _fit(task: Task, spread: bool, line: Any, outcome: list[BaseException]) -> None:
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
        outcome.append(error)
        try:
            free_places()
        except (
            Exception
        ):  # as when the cluster is gone. The driver waits for the end of the line, whatever happens here
            logger.warning("Room on the cluster may still be kept for ranks that are gone", exc_info=True)
        time.sleep(2 * LOOK_SECONDS)  # if it is for a node that was told to end, the driver hears of that first
    with suppress(ray.exceptions.RayError):  # then the line is cut, and the driver knows
        ray.get(line.end.remote())


# ── ranks that hang, or were killed for want of memory ──────────────────────────────────────────────────────────────


def _end_hanging(task: Task, places: Mapping[int, Place], folder: Path) -> list[Found]:
    """Their stacks, kept; they are killed, so that Ray Train ends."""
    asked = {
        node: {rank: (place.pid, stacks_path(task, rank)) for rank, place in places.items() if place.node == node}
        for node in {place.node for place in places.values()}
    }
    found = sorted(
        (each for answer in on_nodes(collect, asked, seconds=_ANSWER_SECONDS).values() for each in answer),
        key=lambda each: each.rank,
    )
    pids = {node: [pid for pid, _ in ranks.values()] for node, ranks in asked.items()}
    on_nodes(end, pids, seconds=_ANSWER_SECONDS)
    try:
        (folder / STACKS).write_text(told(found), encoding="utf-8")
    except OSError:  # a full disk: the sentence is left
        logger.warning("The stacks could not be kept", exc_info=True)
    return found


def _hang(hung: tuple[float, int], found: list[Found], where: str) -> Failure:
    seconds, step = hung
    who = culprit(found)
    return Failure(
        FailureClass.HANG,
        "Hang",
        f"No step for {seconds:.0f} s after step {step}.{f' {who}' if who else ''} What every rank was doing is in {where}.",
        AGAIN,
    )


def _short_of_memory(failure: Failure, places: Mapping[int, Place]) -> Failure | None:
    """The kernel kills without a word: only its counter tells that it was for want of memory."""
    anyone = failure.rank is None or failure.reason == Reason.COLLECTIVE
    lost = {rank: place for rank, place in sorted(places.items()) if anyone or rank == failure.rank}
    answers = on_nodes(_memory, dict.fromkeys(place.node for place in lost.values()), seconds=_ANSWER_SECONDS)
    for rank, place in lost.items():
        now = answers.get(place.node)
        if now and now.kills > place.kills:
            limit = f" of {now.limit / 2**30:.1f} GiB" if now.limit else ""
            return replace(
                failure,
                cls=FailureClass.OUT_OF_MEMORY,
                reason=Reason.OUT_OF_MEMORY,
                message=f"Rank {rank} on {place.address} was killed by the kernel: its host memory{limit} was used up.",
                remedy="Give the workers more memory (on a cluster spec.resources.worker.memory), or the run a smaller "
                "spec.training.microBatchSize.",
                rank=rank,
            )
    return None


def _memory(_: None) -> HostMemory:
    return host_memory()
