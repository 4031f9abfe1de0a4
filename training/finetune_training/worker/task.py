"""What the driver hands to a rank.

In: what the driver has found out. Out: a `Task`, the same for all ranks, of plain values that pickle, and for each rank a
`Context`. With these a rank needs nothing of who has started it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_training.checkpoint.manifest import Facts
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.spec import Job, ModelSpec
from finetune_training.data.shards import DataManifest
from finetune_training.events.progress import Report
from finetune_training.store.storage import Store


@dataclass(frozen=True)
class Task:
    """What the ranks are to do. `job` has its local URIs made absolute and the model's revision pinned; `base` is
    the model as the user wrote it; `inherited` are the checkpoints that may be loaded, newest first; `store` is the run's
    folder; `staging` is a folder on each node."""

    job: Job
    base: ModelSpec
    turn: Turn
    inherited: list[str]
    store: Store
    data: DataManifest
    ranks: int
    on_gpu: bool
    staging: Path
    versions: dict[str, str]

    @property
    def data_store(self) -> Store:
        return self.store.child("data", self.data.fingerprint)

    @property
    def facts(self) -> Facts:
        """What a checkpoint of these ranks depends on."""
        spec = self.job.spec
        return Facts(
            attempt=self.turn.attempt,
            restart=self.turn.restart,
            world_size=self.ranks,
            zero_stage=spec.deepspeed.stage,
            method=spec.method.type,
            seed=spec.training.seed,
            global_batch_size=spec.training.global_batch_size,
            data_fingerprint=self.data.fingerprint,
            versions=self.versions,
        )


@dataclass(frozen=True)
class Context:
    """One rank's surroundings. `report` delivers an event and answers whether the driver asks to stop."""

    rank: int
    world_size: int
    local_rank: int
    report: Callable[[Report], bool]
