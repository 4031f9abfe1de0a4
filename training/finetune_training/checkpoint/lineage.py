"""Which checkpoints count, when several attempts may be alive at once.

In: the claims of a run, and what lies in its checkpoints folder. Out: the checkpoints that a turn may load, agreed
before it loads any (`inherit`), and whether a turn is still the newest (`check_fence`). No lock, no clock: an object
that is created at most once decides, and every later turn abides by it (docs/checkpoints.md has the argument).
"""

from __future__ import annotations

from collections.abc import Iterable

from finetune_training.checkpoint.manifest import (
    FOLDER,
    MANIFEST,
    CheckpointManifest,
    Sealed,
    manifest_key,
    parse_name,
    read_manifest,
)
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.failure import Failure, FailureClass, FinetuneError, infrastructure_error
from finetune_training.store.storage import Store

ATTEMPTS = "attempts"


class Inheritance(Sealed):
    """`attempts/<turn>/inherits.json`: the checkpoints of older turns that count, newest first. What an older turn commits
    later never does."""

    checkpoints: list[str]


def turns(store: Store) -> list[Turn]:
    """Those that are claimed, oldest first."""
    return sorted(turn for name in store.folders(ATTEMPTS) if (turn := Turn.of(name)))


def check_fence(store: Store, turn: Turn) -> None:
    """Raises a Fenced error when a newer turn has claimed the run."""
    newest = max(turns(store), default=turn)
    if newest > turn:
        raise FinetuneError(fenced(f"attempt {newest} has taken over from attempt {turn}"))


def inherit(store: Store, turn: Turn, *, nothing: bool = False) -> list[str]:
    """What `turn`, just claimed, may load, newest first; from now on nothing else of older turns counts. With
    `nothing` the run begins anew. Raises a Fenced error when a newer turn has claimed the run."""
    found = [] if nothing else committed(store, before=turn)
    record = Inheritance(checkpoints=found)
    if not store.create(_key(turn), record.to_bytes()):  # a retry has met its own write
        found = _inheritance(store, turn) or []
    check_fence(store, turn)
    return found


def committed(store: Store, *, before: Turn | None = None) -> list[str]:
    """Names of the checkpoints that count (for a turn: of those `before` it), newest first."""
    heir, inherited = Turn(0), frozenset[str]()
    for turn in reversed(turns(store)):  # one that died before it wrote what it inherits has committed nothing
        found = _inheritance(store, turn) if before is None or turn < before else None
        if found is not None:
            heir, inherited = turn, frozenset(found)
            break
    names = [
        name
        for name, (turn, _) in _with_manifest(store)
        if name in inherited or (turn >= heir and (before is None or turn < before))
    ]
    retired = {name for manifest in _manifests(store, names) for name in manifest.retires}
    return [name for name in names if name not in retired]


def leftovers(store: Store, turn: Turn, inherited: Iterable[str]) -> list[str]:
    """Folders that `turn` may remove: those of older turns that do not count."""
    kept = set(inherited)
    named = ((name, parse_name(name)) for name in store.folders(FOLDER))
    return [name for name, place in named if place and place[0] < turn and name not in kept]


def forget(store: Store, name: str) -> None:
    """Delete a checkpoint: its manifest first, so that what is half deleted is no checkpoint."""
    store.delete([manifest_key(name)])
    store.delete_folder(f"{FOLDER}/{name}")


def fenced(what: str) -> Failure:
    """The failure of a turn that is not the newest any more."""
    return Failure(
        FailureClass.FENCED,
        "Fenced",
        f"This attempt stops: {what}.",
        "The newer attempt goes on from the last checkpoint.",
    )


def _with_manifest(store: Store) -> list[tuple[str, tuple[Turn, int]]]:
    """Names and places, newest first."""
    found = {entry.key.split("/")[1] for entry in store.entries(FOLDER) if entry.key.endswith(f"/{MANIFEST}")}
    placed = [(name, place) for name in found if (place := parse_name(name))]
    return sorted(placed, key=lambda each: each[1], reverse=True)


def _manifests(store: Store, names: Iterable[str]) -> list[CheckpointManifest]:
    """Those that can be read."""
    found = (read_manifest(store, name) for name in names)
    return [manifest for manifest in found if not isinstance(manifest, str)]


def _inheritance(store: Store, turn: Turn) -> list[str] | None:
    text = store.get(_key(turn))
    if text is None:
        return None
    try:
        return Inheritance.from_bytes(text).checkpoints
    except ValueError as error:
        raise infrastructure_error(
            "InheritanceDamaged",
            f"{store.uri}/{_key(turn)} is damaged: it says which checkpoints count.",
            "Restore that object, or start the run anew with --fresh.",
            detail=str(error),
        ) from error


def _key(turn: Turn) -> str:
    return f"{ATTEMPTS}/{turn}/inherits.json"
