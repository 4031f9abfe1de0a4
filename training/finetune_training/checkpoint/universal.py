"""The universal form of a checkpoint, made once and kept beside it.

In: a checkpoint that another number of ranks has written. Out: a folder that this number of ranks can load, on every machine,
verified. Rank 0 converts (reshape.py) and keeps the result in the checkpoint's folder: `universal-a<turn>/…` and, last and
create-only, `universal-a<turn>.json`, which lists it as a manifest lists a checkpoint. Later attempts find it there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from finetune_training.checkpoint.manifest import (
    FOLDER,
    CheckpointFile,
    CheckpointManifest,
    Sealed,
    lists_universal,
    universal_name,
)
from finetune_training.checkpoint.reshape import arranged, convert
from finetune_training.checkpoint.turn import Turn
from finetune_training.checkpoint.upload import Uploader
from finetune_training.checkpoint.verified import fetch, folder_for
from finetune_training.checkpoint.world import World, first_of, first_problem
from finetune_training.store.storage import Store


class Universal(Sealed):
    """`universal-a<turn>.json`: the files below `universal-a<turn>/`."""

    turn: str
    files: list[CheckpointFile]


@dataclass(frozen=True)
class Reshaping:
    """One rank's way to a checkpoint of another number of ranks. `keep`: for the next attempts; a store that is another run's
    is only read."""

    store: Store
    world: World
    cache: Path
    turn: Turn
    keep: bool = True

    def folder(self, name: str, manifest: CheckpointManifest) -> tuple[Path, str]:
        """Collective. The folder to load, and what is wrong with the checkpoint. A kept form that is damaged is made anew."""
        if not self.keep:
            return self._view(name), first_problem(self.world, lambda: self._here(name, manifest))
        problem = self._try(name, manifest, anew=False)
        if problem:
            problem = self._try(name, manifest, anew=True)
        return self._view(name), problem

    def _try(self, name: str, manifest: CheckpointManifest, *, anew: bool) -> str:
        made = first_of(self.world, lambda: self._made(name, manifest, anew=anew))
        return made if isinstance(made, str) else first_problem(self.world, lambda: self._local(name, made))

    def _made(self, name: str, manifest: CheckpointManifest, *, anew: bool) -> Universal | str:
        """Rank 0: the universal form in the store, or what is wrong with the checkpoint that it should be made of."""
        kept = None if anew else self._kept(name)
        if kept:
            return kept
        out, problem = self._converted(name, manifest)
        if problem:
            return problem
        uploader, prefix = Uploader(self.store, self.world.rank), _prefix(name, str(self.turn))
        made = Universal(turn=str(self.turn), files=uploader.folder(out, prefix))
        uploader.patiently(lambda store: store.create(f"{prefix}.json", made.to_bytes()), f"{prefix}.json")
        shutil.rmtree(out)
        return made

    def _here(self, name: str, manifest: CheckpointManifest) -> str:
        """One rank of each machine makes it for that machine."""
        if self.world.local_rank != 0:
            return ""
        out, problem = self._converted(name, manifest)
        if not problem:
            arranged(out, self._view(name), ranks=self.world.size)
        return problem

    def _converted(self, name: str, manifest: CheckpointManifest) -> tuple[Path, str]:
        """The universal form on this disk, and what is wrong with the checkpoint that it should be made of."""
        folder, out = folder_for(self.store, f"{FOLDER}/{name}", self.cache), self.cache / "converted" / name
        problem = fetch(self.store, f"{FOLDER}/{name}", manifest.files, folder)
        if not problem:
            convert(folder, out)
        return out, problem

    def _kept(self, name: str) -> Universal | None:
        """The newest that can be read."""
        for entry in reversed(self.store.files(f"{FOLDER}/{name}")):
            if lists_universal(entry.key.rsplit("/", 1)[-1]):
                try:
                    return Universal.from_bytes(self.store.get(entry.key) or b"")
                except ValueError:
                    continue
        return None

    def _local(self, name: str, universal: Universal) -> str:
        """One rank of each machine brings it there."""
        if self.world.local_rank != 0:
            return ""
        prefix = _prefix(name, universal.turn)
        source = folder_for(self.store, prefix, self.cache)
        problem = fetch(self.store, prefix, universal.files, source)
        if not problem:
            arranged(source, self._view(name), ranks=self.world.size)
        return problem

    def _view(self, name: str) -> Path:
        return self.cache / f"{name}-for-{self.world.size}"


def _prefix(name: str, turn: str) -> str:
    return f"{FOLDER}/{name}/{universal_name(turn)}"
