"""A row's identity → where the prepared data has it.

In: the shards of a run and an identity, which the preparation keeps with each document. Out: the row's documents as they are
trained, whatever has become of the sources since, each with its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_training.data.render import Document
from finetune_training.data.shards import DataManifest, fetch_shards
from finetune_training.store.storage import Store


@dataclass(frozen=True)
class Whereabouts:
    """`shard`: its file, which begins with the split. `sample`: its number there, from 0. `place`: which of the sample's
    `among` documents it is, from 1."""

    shard: str
    sample: int
    place: int
    among: int
    document: Document

    def __str__(self) -> str:
        return f"{self.shard}, sample {self.sample}, document {self.place} of {self.among}"


def whereabouts(store: Store, data: DataManifest, row: int, *, cache: Path) -> list[Whereabouts]:
    """All documents of that row. Shards of another machine come into `cache`."""
    shards = [*data.train, *data.validation]
    paths = fetch_shards(store, shards, cache)
    return [found for path in paths for found in _in_shard(path, row)]


def _in_shard(path: Path, row: int) -> Iterator[Whereabouts]:
    wanted = np.uint64(row).astype(np.int64)  # as the shards have it
    first = 0
    with pa.memory_map(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            owners = batch.column("row_ids")
            places = np.flatnonzero(owners.flatten().to_numpy(zero_copy_only=False) == wanted)
            for number in np.unique(np.searchsorted(_ends(owners), places, side="right")).tolist():
                yield from _in_sample(batch.slice(number, 1).to_pylist()[0], int(wanted), path.name, first + number)
            first += batch.num_rows


def _ends(lists: pa.ListArray) -> Any:
    return np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))


def _in_sample(sample: dict[str, Any], wanted: int, shard: str, number: int) -> Iterator[Whereabouts]:
    start = 0
    for place, (owner, length) in enumerate(zip(sample["row_ids"], sample["seq_lengths"], strict=True), 1):
        stop = start + length
        if owner == wanted:
            document = Document(sample["input_ids"][start:stop], sample["labels"][start:stop], 0)
            yield Whereabouts(shard, number, place, len(sample["row_ids"]), document)
        start = stop
