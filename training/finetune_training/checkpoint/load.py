"""Loading: the newest checkpoint of which every file is what its manifest says.

In: the checkpoints that count, newest first. Out: one of them, verified, in a form that this number of ranks can load. Every
rank fetches what it needs itself, all at the same time. One that is damaged is skipped, with a warning that says which file
is bad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_training.checkpoint.manifest import FOLDER, CheckpointManifest, Facts, read_manifest
from finetune_training.checkpoint.universal import Reshaping
from finetune_training.checkpoint.verified import fetch, folder_for
from finetune_training.checkpoint.world import World, first_of, first_problem
from finetune_training.contract.failure import user_error
from finetune_training.events.progress import Event, Warned
from finetune_training.store.storage import Store

_MUST_AGREE = {
    "zero_stage": "ZeRO stage",
    "method": "method",
    "seed": "seed",
    "global_batch_size": "global batch size",
    "data_fingerprint": "data fingerprint",
}


@dataclass(frozen=True)
class Restored:
    """A verified checkpoint on this machine's disk: `folder` is what the engine loads, `source` has the files as they were
    saved, if they are here."""

    name: str
    folder: Path
    source: Path
    manifest: CheckpointManifest
    uri: str


def restore(
    store: Store,
    names: Sequence[str],
    *,
    facts: Facts,
    world: World,
    cache: Path,
    report: Callable[[Event], object],
    own: bool = True,
) -> Restored | None:
    """The first of `names` whose files verify, None when there is none. Collective. `own`: the store is this run's, and may be
    written. Raises a User error for one that another kind of run wrote, which says what to do."""
    for name in names:
        manifest = first_of(world, lambda: read_manifest(store, name))  # noqa: B023 (called here)
        if isinstance(manifest, CheckpointManifest):
            _check_fit(manifest.facts, facts, name)
            if manifest.facts.world_size == world.size:
                folder, problem = _fetch_together(store, name, manifest, world, cache)
            else:
                folder, problem = Reshaping(store, world, cache, facts.turn, keep=own).folder(name, manifest)
            if not problem:
                source = folder_for(store, f"{FOLDER}/{name}", cache)
                return Restored(name, folder, source, manifest, f"{store.uri}/{FOLDER}/{name}")
        else:
            problem = manifest
        if world.rank == 0:
            report(Warned(f"Checkpoint {name} is damaged and skipped: {problem}"))
    return None


def _fetch_together(
    store: Store, name: str, manifest: CheckpointManifest, world: World, cache: Path
) -> tuple[Path, str]:
    """Every rank its own files, and one rank of each machine what all of them read."""
    prefix = f"{FOLDER}/{name}"
    folder = folder_for(store, prefix, cache)
    files = manifest.needed_by(world.rank)
    if world.local_rank == 0:
        files = [*manifest.needed_by_all(), *files]
    return folder, first_problem(world, lambda: fetch(store, prefix, files, folder))


def _check_fit(then: Facts, now: Facts, name: str) -> None:
    different = differences(then, now)
    if different:
        raise user_error(
            "CheckpointDoesNotFit",
            f"Checkpoint {name} has another {different[0]}.",
            "Run it as it was, or start anew with --fresh.",
        )


def differences(then: Facts, now: Facts) -> list[str]:
    """What a checkpoint depends on and is not as it was: `seed (1 instead of 2)`."""
    pairs = {what: (getattr(then, field), getattr(now, field)) for field, what in _MUST_AGREE.items()}
    return [f"{what} ({before} instead of {here})" for what, (before, here) in pairs.items() if before != here]
