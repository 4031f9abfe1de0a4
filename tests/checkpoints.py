"""A run's folder with one rank that saves and restores: what the tests of the checkpoint protocol start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from finetune_training.checkpoint.lineage import inherit
from finetune_training.checkpoint.load import Restored, restore
from finetune_training.checkpoint.manifest import Facts, Reached
from finetune_training.checkpoint.save import Checkpointer, Origin
from finetune_training.checkpoint.turn import Turn
from finetune_training.events.progress import Event
from finetune_training.events.result import Scores
from finetune_training.store.storage import Store

T = TypeVar("T")
FACTS = Facts(
    attempt=1, world_size=1, zero_stage=2, method="LoRA", seed=1, global_batch_size=4, data_fingerprint="d", versions={}
)
BASELINE = Scores(loss=4.0, perplexity=54.6, supervised_tokens=100)


@dataclass(frozen=True)
class Alone:
    """A world of one rank."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def gather(self, value: T) -> list[T]:
        return [value]


@dataclass
class Run:
    """The folder, and what was reported."""

    folder: Path
    uri: str = ""
    events: list[Event] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The folder, or what is at `uri`."""
        return Store(self.uri or str(self.folder / "run"))

    def claim(self, attempt: int) -> list[str]:
        """What the attempt inherits."""
        self.store.create(f"attempts/{attempt}/claim", b"")
        return inherit(self.store, Turn(attempt))

    def checkpointer(self, *, attempt: int = 1, keep: int = 2, resumed_from: str | None = None) -> Checkpointer:
        """Of an attempt that is claimed with it."""
        return Checkpointer(
            self.store,
            facts=FACTS.model_copy(update={"attempt": attempt}),
            world=Alone(),
            staging=self.folder / f"staging-{attempt}",
            keep=keep,
            origin=Origin(self.claim(attempt), resumed_from),
            report=self.events.append,
        )

    def restore(self, names: list[str], **changes: Any) -> Restored | None:
        facts = FACTS.model_copy(update=changes)
        cache = self.folder / "cache"
        return restore(self.store, names, facts=facts, world=Alone(), cache=cache, report=self.events.append)

    def path(self, name: str) -> Path:
        """A checkpoint's folder."""
        return self.folder / "run" / "checkpoints" / name


def writing(text: str) -> Callable[[Path], None]:
    """Writes what a rank would, in small."""

    def write(folder: Path) -> None:
        (folder / "global_step").mkdir()
        (folder / "global_step" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_text(f"optimizer {text}")
        (folder / "state.json").write_text(text)

    return write


def save(checkpointer: Checkpointer, step: int, *, score: float | None = None) -> None:
    """Begin to save a step."""
    metrics = {"loss": 1.0} if score is None else {"loss": 1.0, "evalLoss": score}
    reached = Reached(step=step, samples=4 * step, epoch=step / 10, metrics=metrics, baseline=BASELINE)
    checkpointer.save(writing(str(step)), reached)


def saved(checkpointer: Checkpointer, *steps: int, score: float | None = None) -> None:
    """Save steps, each to the end."""
    for step in steps:
        save(checkpointer, step, score=score)
        checkpointer.flush()
