"""The ranks of an attempt as Ray Train workers.

In: a `Task`. Out: its events, as they happen, and at the end what came of it: trained, interrupted, or a `Failure` with
the rank that failed first. Ray is embedded (this process starts and ends it) unless RAY_ADDRESS names a cluster. One
actor, the `Line`, carries events from the ranks to the driver, and back the wish to stop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from finetune_training.cluster import is_embedded
from finetune_training.failure import Failure, FinetuneError, classify, infrastructure_error
from finetune_training.progress import Event, Report, Trained, Warned
from finetune_training.worker import Context, Task, train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankFailed:
    """A rank's last word."""

    failure: Failure
    traceback: str


@dataclass(frozen=True)
class StopAsked:
    """The user, or the machine, wants the run to stop."""


_LAST = None
Message = Report | RankFailed | StopAsked | None


def launch(task: Task, *, logs: Path, on_event: Callable[[Event], None]) -> Trained:
    """Run the task's ranks. Ctrl-C (or SIGTERM) once: they save a checkpoint and stop; twice: at once. Raises a
    FinetuneError."""
    line = _Line.remote()  # type: ignore[attr-defined]
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    outcome: list[BaseException] = []
    threads = [
        threading.Thread(target=_pump, args=(line, messages), name="events", daemon=True),
        threading.Thread(target=_fit, args=(task, line, logs, outcome), name="ray-train", daemon=True),
    ]
    with _signals_to(messages):
        for thread in threads:
            thread.start()
        trained, failed = _listen(messages, on_event, stop=lambda: line.stop.remote())
        threads[-1].join()
    if trained is None or failed or outcome:
        raise FinetuneError(_first_cause(failed, outcome))
    return trained


def _listen(
    messages: queue.SimpleQueue[Message], on_event: Callable[[Event], None], *, stop: Callable[[], object]
) -> tuple[Trained | None, list[RankFailed]]:
    trained: Trained | None = None
    failed: list[RankFailed] = []
    while True:
        match message := messages.get():
            case None:
                return trained, failed
            case StopAsked():
                on_event(Warned("Asked to stop: saving a checkpoint after this step. Once more stops at once."))
                stop()
            case RankFailed():
                failed.append(message)
                logger.error("Rank %s failed:\n%s", message.failure.rank, message.traceback)
            case Trained():
                trained = message
            case _:
                on_event(message)


def _first_cause(failed: list[RankFailed], outcome: list[BaseException]) -> Failure:
    """Of several failures the one that explains the others: a rank that is gone makes its peers' collectives fail."""
    failures = [report.failure for report in failed]
    failures += [_lost(classify(error, rank=rank)) for problem in outcome for rank, error in _by_rank(problem)]
    consequences = ("Collective", "Unknown")
    return (
        next((failure for failure in failures if failure.reason not in consequences), failures[0])
        if failures
        else _silent()
    )


def _by_rank(problem: BaseException) -> list[tuple[int | None, BaseException]]:
    ranks: dict[int, BaseException] = getattr(problem, "worker_failures", None) or {}
    return list(ranks.items()) or [(None, problem)]


def _lost(failure: Failure) -> Failure:
    """Ray tells all that it knows of a worker; the user needs to know that it is gone."""
    if failure.reason != "WorkerLost" or failure.rank is None:
        return failure
    return replace(
        failure, message=f"Rank {failure.rank} is gone: its process died without a word.", detail=failure.message
    )


def _silent() -> Failure:
    return infrastructure_error(
        "ClusterLost",
        "Ray ended before the ranks did.",
        "Run the same command again: it resumes from the last checkpoint.",
    ).failure


def _pump(line: Any, messages: queue.SimpleQueue[Message]) -> None:
    """Ray's calls cannot be interrupted without losing their answer, so the driver's thread waits on a queue of its
    own."""
    while True:
        try:
            batch = ray.get(line.drain.remote())
        except Exception:
            logger.exception("The line to the ranks is cut")
            batch = [_LAST]
        for message in batch:
            messages.put(message)
            if message is _LAST:
                return


def _fit(task: Task, line: Any, logs: Path, outcome: list[BaseException]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = {"CPU": 1, "GPU": 1} if task.on_gpu else {"CPU": 1}
    try:
        TorchTrainer(
            _rank,
            train_loop_config={"task": task, "line": line, "logs": str(logs)},
            scaling_config=ScalingConfig(num_workers=task.ranks, use_gpu=task.on_gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name=f"attempt-{task.attempt}",
                storage_path=_ray_storage(task),
                # Attempts are ours: a restart inside one would meet its own claims and checkpoints.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        ).fit()
    except BaseException as error:  # handed to the driver's thread
        logger.exception("Ray Train ended with an error")
        outcome.append(error)
    with suppress(ray.exceptions.RayError):  # then the line is cut, and the driver knows
        ray.get(line.end.remote())


def _rank(config: dict[str, Any]) -> None:
    """One rank, in its own process: `worker.train` with a context made of Ray's."""
    from ray import train as ray_train

    task, line = config["task"], config["line"]
    ray_context = ray_train.get_context()
    rank = ray_context.get_world_rank()

    def report(event: Report) -> bool:
        return bool(ray.get(line.tell.remote(event)))

    with _log_of_rank(rank, task, config["logs"]):
        try:
            train(task, Context(rank, ray_context.get_world_size(), ray_context.get_local_rank(), report))
        except BaseException as error:
            traceback.print_exc()
            ray.get(line.tell.remote(RankFailed(classify(error, rank=rank), traceback.format_exc())))
            raise


@ray.remote(num_cpus=0)
class _Line:
    """Carries messages in order. Every message is answered with whether to stop."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._stopping = False

    async def tell(self, message: Message) -> bool:
        await self._messages.put(message)
        return self._stopping

    async def drain(self) -> list[Message]:
        """At least one message."""
        batch = [await self._messages.get()]
        while not self._messages.empty():
            batch.append(self._messages.get_nowait())
        return batch

    async def stop(self) -> None:
        self._stopping = True

    async def end(self) -> None:
        await self._messages.put(_LAST)


@contextmanager
def _log_of_rank(rank: int, task: Task, logs: str) -> Iterator[None]:
    """Everything this process prints goes to the rank's log, which is brought to the store at the end."""
    local = task.store.folder
    folder = Path(logs) if local else task.staging
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank}.log"
    with path.open("a", buffering=1, encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if not local:
                task.store.upload(path, f"attempts/{task.attempt}/{path.name}")


def _ray_storage(task: Task) -> str:
    """Ray Train wants a place that every node sees, though it keeps nothing there that we use."""
    return str(task.staging / "ray") if is_embedded() else f"{task.store.uri}/attempts/{task.attempt}/ray"


@contextmanager
def _signals_to(messages: queue.SimpleQueue[Message]) -> Iterator[None]:
    """Ctrl-C, and SIGTERM (what Kubernetes sends): the first is a message like others, wherever this thread is; the
    next ends it at once."""

    def ask(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)
        messages.put(StopAsked())

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
