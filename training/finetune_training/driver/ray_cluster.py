"""Where the ranks run: Ray of our own, or a cluster that is there.

In: the spec, `--workers`, RAY_ADDRESS. Out: Ray, connected, how many ranks on what, a folder on each machine; ended and
removed again when they were made here.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from finetune_training.contract.environment import STATUS
from finetune_training.contract.failure import FailureClass, classify, infrastructure_error, user_error
from finetune_training.contract.spec import RunSpec
from finetune_training.driver.signals import end_at_sigterm
from finetune_training.preflight.scratch import ray_folder

logger = logging.getLogger(__name__)
Argument = TypeVar("Argument")
Result = TypeVar("Result")
_SWEEP_SECONDS = 20
"""What a machine that has just been lost may delay the end of a run."""
_ANSWER_SECONDS = 30.0
"""In which a machine that is there has started a process and answered."""
_DETACHED = (("AutoscalingCoordinator", "AutoscalingCoordinator"), ("datasets_stats_actor", "_dataset_stats_actor"))
"""Name and namespace of the actors that Ray Data starts when it is first used."""
LOOK_SECONDS = 0.5
"""How often Ray is asked which nodes are told to end."""


@dataclass(frozen=True)
class Placement:
    """Where the ranks run. `spread`: each on a machine of its own."""

    ranks: int
    on_gpu: bool
    spread: bool = False


@contextmanager
def ray_session(*, cpus: int = 1) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start Ray here, with room for `cpus` tasks at a time, and end it
    afterwards. When this machine is told to end, so is this process."""
    own: AbstractContextManager[str | None] = ray_folder() if is_embedded() else nullcontext()
    with own as folder:
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
        if folder:
            quiet |= {"address": "local", "num_cpus": max(os.cpu_count() or 1, cpus), "include_dashboard": False}
            quiet["_temp_dir"] = folder
        with _starting():
            ray.init(**quiet)
        with _connected():
            yield


@contextmanager
def _starting() -> Iterator[None]:
    """A machine on which Ray cannot start, or not in the time that Ray gives itself, is no bug. Ray raises a bare Exception for
    most of it."""
    try:
        yield
    except Exception as error:
        if classify(error).cls is not FailureClass.UNKNOWN:
            raise
        what, remedy = (
            "could not be started here",
            "Close what keeps this machine busy, look at its free memory and at `ulimit -n`",
        )
        if not is_embedded():
            what, remedy = (
                f"at {os.environ['RAY_ADDRESS']} could not be joined",
                "Look at that cluster, and at its version of Ray",
            )
        said = str(error).strip() or type(error).__name__
        raise infrastructure_error(
            "RayNotStarted",
            f"Ray {what}: {said.splitlines()[0]}",
            f"{remedy}, then run the same command again.",
            detail=said[:600],
        ) from error


@contextmanager
def _connected() -> Iterator[None]:
    end_at_sigterm()  # Ray has set a handler that ends the process without a word
    here = ray.get_runtime_context().get_node_id()

    def told(nodes: frozenset[str]) -> None:
        if here in nodes:  # in a pod only Ray is told
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with draining_watched(told):
            yield
    finally:
        if os.environ.get(STATUS) == "true":  # the operator has made it
            _end_detached()
        ray.shutdown()


def _end_detached() -> None:
    """End what Ray Data 2.60 leaves running for others, on a cluster that is this attempt's alone. A node on which something
    runs waits for it when it is told to end: the next attempt would wait for the head of this one."""
    for name, namespace in _DETACHED:
        with suppress(ValueError, ray.exceptions.RayError):  # it was never started, or the cluster is gone
            ray.kill(ray.get_actor(name, namespace=namespace))


def placement_for(spec: RunSpec, *, workers: int | None) -> Placement:
    """How many ranks, on what. On a cluster the spec says so; here `--workers`, or one for each GPU."""
    if not is_embedded():
        on_gpu = spec.resources.gpus_per_worker > 0
        return Placement(workers or spec.resources.ranks, on_gpu, spread=not (on_gpu or workers))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and workers and workers > gpus:
        raise user_error(
            "NotEnoughGPUs", f"--workers {workers}, but there are {gpus} GPUs.", f"Use --workers {gpus} or fewer."
        )
    return Placement(workers or max(1, gpus), gpus > 0)


def is_embedded() -> bool:
    """Whether Ray is started here rather than found at RAY_ADDRESS."""
    return not os.environ.get("RAY_ADDRESS")


@contextmanager
def staging_folder() -> Iterator[Path]:
    """The path of a folder for this run, for every machine of the cluster: here it exists, elsewhere who needs it makes it,
    and at the end it is removed everywhere."""
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        try:
            yield Path(folder)
        finally:
            if not is_embedded():
                _sweep(folder)


def _sweep(folder: str) -> None:
    """Remove `folder` on every machine that stays. One that is being drained takes no task any more."""
    try:
        gone = draining()
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in gone]
        on_nodes(_remove, dict.fromkeys(nodes, folder), seconds=_SWEEP_SECONDS)
    except Exception:  # as when the cluster is gone
        logger.warning("%s may be left on the cluster's machines", folder, exc_info=True)


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def draining() -> frozenset[str]:
    """The nodes that were told to end, by Kubernetes or whoever runs them, and will be gone soon. Some that are gone, too:
    Ray notices only after a while."""
    return frozenset(ray._private.state.state.get_draining_nodes())


@contextmanager
def draining_watched(on_more: Callable[[frozenset[str]], None]) -> Iterator[None]:
    """`on_more` gets each node that is draining, once, in a thread of its own."""
    over = threading.Event()

    def watch() -> None:
        known = frozenset[str]()
        while not over.wait(LOOK_SECONDS):
            try:
                found = draining()
            except Exception:  # as when the cluster is gone, which others notice
                logger.warning("Ray does not say which nodes are told to end", exc_info=True)
                continue
            if more := found - known:
                on_more(more)
            known |= found

    watcher = threading.Thread(target=watch, name="draining", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=2 * LOOK_SECONDS)


def await_machines(placement: Placement, *, seconds: float) -> bool:
    """Wait until there are machines that answer for all ranks; False when there are none in time. Ray tells of no machine
    that joins, and takes one that has just been lost for alive: so each is asked."""
    until = time.monotonic() + seconds
    while True:
        gone = draining()
        nodes = {
            node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in gone
        }
        if room_for(placement, nodes.values()):
            there: list[Mapping[str, float]] = []
            for node, _ in _answers(_here, dict.fromkeys(nodes), seconds=_ANSWER_SECONDS):
                there.append(nodes[node])
                if room_for(placement, there):
                    return True
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_SECONDS)


def free_places() -> None:
    """Give back what this driver has reserved for ranks that are gone. Ray Train 2.60 does not when Ray's memory monitor has
    killed one: it expects errors of actors only while it cleans up. The next ranks would wait for that room."""
    driver = ray.get_runtime_context().get_job_id()
    table = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()
    for each in map(gcs_pb2.PlacementGroupTableData.FromString, table):
        if each.creator_job_id.hex() == driver and each.state != gcs_pb2.PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(each.placement_group_id)))


def room_for(placement: Placement, machines: Iterable[Mapping[str, float]]) -> bool:
    """Whether `machines` (resources of each) hold all ranks. Pure."""
    places = [int(resources.get("GPU" if placement.on_gpu else "CPU", 0)) for resources in machines]
    return sum(min(each, 1) if placement.spread else each for each in places) >= placement.ranks


def _here(_: None) -> None:
    """What a machine does to say that it is there."""


def on_nodes(
    function: Callable[[Argument], Result], arguments: Mapping[str, Argument], *, seconds: float
) -> dict[str, Result]:
    """Run `function` on each node with its argument; the results of those that answer in time."""
    return dict(_answers(function, arguments, seconds=seconds))


def _answers(
    function: Callable[[Argument], Result], arguments: Mapping[str, Argument], *, seconds: float
) -> Iterator[tuple[str, Result]]:
    """Node and result, as they come."""
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {task.options(scheduling_strategy=on_node(node)).remote(given): node for node, given in arguments.items()}
    waiting, until = list(asked), time.monotonic() + seconds
    try:
        while waiting and (left := until - time.monotonic()) > 0:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=left)
            for each in done:
                try:
                    yield asked[each], ray.get(each)
                except ray.exceptions.RayError:  # the node is gone
                    logger.warning("Node %s does not answer", asked[each], exc_info=True)
    finally:
        for each in waiting:
            ray.cancel(each, force=True)


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """Ray's words for: there and nowhere else."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def run_task(function: Callable[[Argument], Result], argument: Argument, *, on_gpu: bool) -> Result:
    """Run `function` once on a machine like a worker's."""
    task = ray.remote(function).options(num_cpus=1, num_gpus=1 if on_gpu else 0)
    result: Result = ray.get(task.remote(argument))
    return result
