"""Where a run begins: at a checkpoint of its own, where another run was, or at nothing.

In: a task. Out: a `Start`, the same on every rank. A run's own checkpoints come first, the newest that is whole; for another
number of ranks than has saved it, in its universal form (load.py). Only a run that has none begins where
spec.checkpoint.resumeFrom says (resume_from.py): it goes on from there, or takes the weights and begins at step 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_training.checkpoint.load import Restored, restore
from finetune_training.checkpoint.resume_from import Elsewhere, begin_with, resume_from
from finetune_training.checkpoint.world import World
from finetune_training.events.progress import Event
from finetune_training.events.result import Scores
from finetune_training.worker.task import Task


@dataclass(frozen=True)
class Start:
    """`own`: a checkpoint of this very run. `elsewhere`: what another run has left. Neither: the base model at step 0."""

    own: Restored | None = None
    elsewhere: Elsewhere | None = None

    @property
    def restored(self) -> Restored | None:
        """What goes on with everything: weights, optimizer, random states, step. None: the run begins at step 0."""
        return self.own or (self.elsewhere.restored if self.elsewhere else None)

    @property
    def step(self) -> int:
        return self.restored.manifest.step if self.restored else 0

    @property
    def folder(self) -> Path | None:
        """What the engine loads."""
        return self.restored.folder if self.restored else None

    @property
    def baseline(self) -> Scores | None:
        """The base model's scores, where they are known already."""
        return self.restored.manifest.reached.baseline if self.restored else None

    def put_into(self, model: Any, world: World) -> None:
        """Give `model` what the engine will not load. Collective. Raises a User error when it is of another model."""
        if self.elsewhere:
            begin_with(self.elsewhere, model, world)


def start(task: Task, world: World, report: Callable[[Event], object]) -> Start:
    """Decide it, with everything that is read verified and on this machine. Collective."""
    cache = task.staging / "restored"
    own = restore(task.store, task.inherited, facts=task.facts, world=world, cache=cache, report=report)
    if own:
        return Start(own=own)
    cache = task.staging / "resume-from"
    return Start(elsewhere=resume_from(task.job.spec, facts=task.facts, world=world, cache=cache, report=report))
