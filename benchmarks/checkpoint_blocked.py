"""How long training stands still for a checkpoint: ours, and Ray Train's stock synchronous report.

In: an S3 server, how many parameters, how many turns. Out: seconds of each save. Two Ray Train workers hold what a Full BF16 run
would save and save it in turns, ours and stock, to the same server. Between saves they do what costs nothing, so nothing hides
the server's own work.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.waiting import gave_up, limited
from finetune_training.checkpoint.manifest import Facts, Reached
from finetune_training.checkpoint.save import Checkpointer, Origin
from finetune_training.checkpoint.world import TorchWorld
from finetune_training.driver.environment import set_up_ray
from finetune_training.store.storage import open_store
from tests.servers.s3 import S3Server

RANKS = 2
_STEP_SECONDS = 0.1
_START_SECONDS, _TURN_SECONDS, _COMMIT_SECONDS = 180.0, 120.0, 100.0
"""The most for Ray and the ranks to start, for one turn of both, and for one checkpoint of ours to be committed."""


@dataclass(frozen=True)
class Blocked:
    """Seconds for which training stood still, for each save; `staging`: writing the files, which is in both."""

    ours: list[float]
    stock: list[float]
    staging: list[float]


@dataclass(frozen=True)
class _Config:
    """What a rank needs to know. `out`: for the seconds, and how many turns are done."""

    uri: str
    turns: int
    parameters: int
    folder: str

    @property
    def out(self) -> Path:
        return Path(self.folder) / "blocked.json"


def blocked(server: S3Server, *, parameters: int, turns: int, folder: Path) -> Blocked:
    """The first turn warms up and does not count. Raises GaveUp."""
    set_up_ray()  # before anything imports Ray
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    config = _Config(f"s3://{server.bucket}/ours", turns, parameters, str(folder))

    def seen() -> str:
        done = len(json.loads(config.out.read_text())["ours"]) if config.out.exists() else 0
        return f"{done} of {turns} turns after the first"

    seconds = _START_SECONDS + _TURN_SECONDS * (turns + 1)
    with limited(seconds, "two ranks to save in turns, ours and Ray Train's", seen):
        ray.init(address="local", num_cpus=RANKS + 1, include_dashboard=False, log_to_driver=False)
        try:
            TorchTrainer(
                _save_in_turns,
                train_loop_config=asdict(config),
                scaling_config=ScalingConfig(num_workers=RANKS),
                run_config=RunConfig(name="stock", storage_path=f"s3://{server.bucket}/stock"),
            ).fit()
        finally:
            ray.shutdown()
    return Blocked(**json.loads(config.out.read_text()))


def _save_in_turns(settings: dict[str, Any]) -> None:
    """One rank."""
    config, world = _Config(**settings), TorchWorld.create()
    checkpointer, write = _checkpointer(config, world), writer(world.rank, config.parameters)
    found: dict[str, list[float]] = {"ours": [], "stock": [], "staging": []}
    for turn in range(1, config.turns + 2):
        ours = _save(checkpointer, write, turn)
        staging, stock = _report(write, turn, config.folder)
        everyone = world.gather({"ours": ours, "stock": stock, "staging": staging})
        if turn > 1:
            for name, seconds in found.items():
                seconds.append(max(each[name] for each in everyone))
        if world.rank == 0:
            config.out.write_text(json.dumps(found))


def _checkpointer(config: _Config, world: TorchWorld) -> Checkpointer:
    facts = Facts(
        attempt=1, world_size=RANKS, zero_stage=2, method="Full", seed=0, global_batch_size=1, data_fingerprint="", versions={}
    )  # fmt: skip
    return Checkpointer(
        open_store(config.uri), facts=facts, world=world, staging=Path(config.folder) / f"staging-{world.rank}", keep=1,
        origin=Origin([]), report=lambda _: None,
    )  # fmt: skip


def _save(checkpointer: Checkpointer, write: Callable[[Path], None], turn: int) -> float:
    """Seconds for which a rank stands still for a checkpoint of ours, up to its commit."""
    before, polls, began = checkpointer.blocked_seconds, 0.0, time.monotonic()
    checkpointer.save(write, Reached(step=turn, samples=turn, epoch=0, metrics={}, baseline=None))
    while checkpointer._pending:  # steps, each of a tenth of a second
        if time.monotonic() - began > _COMMIT_SECONDS:
            raise gave_up(f"the commit of checkpoint {turn}", _COMMIT_SECONDS, f"{checkpointer._pending}")
        time.sleep(_STEP_SECONDS)
        polls += seconds_of(checkpointer.poll)
    return checkpointer.blocked_seconds - before + polls


def _report(write: Callable[[Path], None], turn: int, folder: str) -> tuple[float, float]:
    """Seconds of writing the files, and of that and Ray Train's report."""
    from ray import train

    with tempfile.TemporaryDirectory(dir=folder) as local:
        staging = seconds_of(lambda: write(Path(local)))
        checkpoint = train.Checkpoint.from_directory(local)
        return staging, staging + seconds_of(lambda: train.report({"turn": turn}, checkpoint=checkpoint))


def writer(rank: int, parameters: int) -> Callable[[Path], None]:
    """Writes what DeepSpeed writes at ZeRO-2, from memory."""
    import torch

    optimizer = torch.rand(3 * parameters // RANKS)
    weights = torch.rand(parameters, dtype=torch.bfloat16) if rank == 0 else None

    def write(folder: Path) -> None:
        torch.save(optimizer, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        if weights is not None:
            torch.save(weights, folder / "mp_rank_00_model_states.pt")

    return write


def seconds_of(work: Callable[[], Any]) -> float:
    """That it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
