"""A run that begins where another one was: `spec.checkpoint.resumeFrom`.

In: the URI of a checkpoint or of a run, and the facts of this attempt. Out: a checkpoint that goes on as if it were the
run's own, when all that it depends on is the same; else the weights in it, to begin with at step 0, and a warning that says
what differs. Either way every byte that is read has been verified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_training.checkpoint.lineage import committed
from finetune_training.checkpoint.load import Restored, differences, restore
from finetune_training.checkpoint.manifest import FOLDER, CheckpointManifest, Facts, parse_name, read_manifest
from finetune_training.checkpoint.run_folder import asked
from finetune_training.checkpoint.verified import fetch, folder_for
from finetune_training.checkpoint.world import World, first_of, first_problem
from finetune_training.contract.failure import data_error, user_error
from finetune_training.contract.spec import MethodType, RunSpec
from finetune_training.events.progress import Event, Warned
from finetune_training.store.storage import Store, open_store


@dataclass(frozen=True)
class Elsewhere:
    """A checkpoint to begin with: `restored` with everything, or only the `weights` in this file."""

    name: str
    restored: Restored | None = None
    weights: Path | None = None


def resume_from(
    spec: RunSpec, *, facts: Facts, world: World, cache: Path, report: Callable[[Event], object]
) -> Elsewhere | None:
    """Where resumeFrom says to begin, None when it says nothing. Collective. Raises a User error when there is no checkpoint,
    or one of another method; a Data error when none is whole."""
    uri = spec.checkpoint.resume_from.uri
    if not uri:
        return None
    store, given = _split_uri(uri)
    found, other = first_of(world, lambda: _look(store, given))
    if not found:
        raise user_error(
            "CheckpointNotFound",
            f"spec.checkpoint.resumeFrom: there is no checkpoint at {uri}.",
            "Name a run's folder, or one checkpoint in it: …/checkpoints/step-00000500-a1.",
        )
    for name, manifest in found:
        problem = manifest
        if isinstance(manifest, CheckpointManifest):
            differing = _differing(manifest.facts, facts, spec, other, name)
            if not differing:
                restored = restore(store, [name], facts=facts, world=world, cache=cache, report=report, own=False)
                if restored:
                    return Elsewhere(name, restored=restored)
                continue  # told already
            weights = cache / "weights.pt"
            problem = _fetch_weights(store, name, manifest, world, weights)
            if not problem:
                if world.rank == 0:
                    report(Warned(_weights_only(f"{store.uri}/{FOLDER}/{name}", manifest.step, differing)))
                return Elsewhere(name, weights=weights)
        if world.rank == 0:
            report(Warned(f"Checkpoint {name} of {store.uri} is damaged and skipped: {problem}"))
    raise data_error(
        "CheckpointDamaged",
        f"spec.checkpoint.resumeFrom: no checkpoint at {uri} is whole.",
        f"Name another one: finetune checkpoints list {store.uri} --verify",
    )


def begin_with(origin: Elsewhere, model: Any, world: World) -> None:
    """Put the weights into `model`, before the engine has it. Collective. Raises a User error when they are those of another
    model."""
    import torch

    from finetune_training.checkpoint.weights import check_fit, load_into, read_shapes

    if origin.weights:
        weights = torch.load(origin.weights, map_location="cpu", mmap=True, weights_only=True)
        load_into(model, weights, name=origin.name)
    if found := origin.restored:  # the engine will load it, and would not say what is wrong
        shapes = first_of(world, lambda: read_shapes(found.source, found.manifest))
        check_fit(model, shapes, name=origin.name)


def _split_uri(uri: str) -> tuple[Store, str]:
    """The run's folder, and the checkpoint's name if the URI names one."""
    above, _, name = uri.rstrip("/").rpartition("/")
    run, _, folder = above.rpartition("/")
    return (open_store(run), name) if folder == FOLDER and parse_name(name) else (open_store(uri), "")


def _look(store: Store, given: str) -> tuple[list[tuple[str, CheckpointManifest | str]], RunSpec | None]:
    """Checkpoints to try, in this order, and what was trained there."""
    names = committed(store) if not given else [given] if store.files(f"{FOLDER}/{given}") else []
    return [(name, read_manifest(store, name)) for name in names], asked(store)


def _differing(then: Facts, now: Facts, spec: RunSpec, other: RunSpec | None, name: str) -> list[str]:
    """What keeps this run from going on as the other one. Beside the facts of a checkpoint this is what an optimizer's state
    carries with it, whatever the spec says. Raises a User error when not even the weights can be used."""
    if then.method != now.method:
        raise _another(name, f"method {then.method}; this run has {now.method}")
    found = differences(then, now)
    if other is None:
        return found
    if spec.method.type is MethodType.LORA and other.method.lora.alpha != spec.method.lora.alpha:
        before, here = other.method.lora.alpha, spec.method.lora.alpha
        raise _another(name, f"lora.alpha {before:g}, which scales its adapters; this run has {here:g}")
    for field in ("precision", "learning_rate", "extra"):
        before, here = getattr(other.training, field), getattr(spec.training, field)
        if before != here:
            found.append(f"training.{to_camel(field)} ({before} instead of {here})")
    return found


def _another(name: str, what: str) -> Exception:
    return user_error(
        "CheckpointDoesNotFit",
        f"spec.checkpoint.resumeFrom: checkpoint {name} was written with {what}.",
        "Use what that run used; or export it with `finetune checkpoints export --merged` and name that as spec.model.uri.",
    )


def _fetch_weights(store: Store, name: str, manifest: CheckpointManifest, world: World, to: Path) -> str:
    """One rank of each machine puts the weights together. Returns what is wrong with the files, or nothing."""
    return first_problem(world, lambda: _read_weights(store, name, manifest, to) if world.local_rank == 0 else "")


def _read_weights(store: Store, name: str, manifest: CheckpointManifest, to: Path) -> str:
    import torch

    from finetune_training.checkpoint.weights import read_weights, weight_files

    prefix = f"{FOLDER}/{name}"
    folder = folder_for(store, prefix, to.parent)
    problem = fetch(store, prefix, weight_files(manifest), folder)
    if not problem:
        to.parent.mkdir(parents=True, exist_ok=True)
        torch.save(read_weights(folder, manifest), to)
    return problem


def _weights_only(uri: str, step: int, differing: list[str]) -> str:
    return (
        f"The run begins at step 0 with the weights of {uri} (step {step}) and nothing else of it, because it was written with"
        f" another {', '.join(differing)}."
    )
