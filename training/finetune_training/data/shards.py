"""The prepared data: shards of packed samples and their manifest, as they lie in the object store.

In: packed samples (prepare.py). Out: Arrow IPC files that are mapped into memory and read by index, and a
`DataManifest` that says what is in them. `data/<fingerprint>/manifest.json` is written last: a folder without it is not
there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pydantic import ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

from finetune_training.contract.failure import infrastructure_error
from finetune_training.store.digest import sha256_of
from finetune_training.store.storage import Store

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("seq_lengths", pa.list_(pa.int32())),
        ("row_ids", pa.list_(pa.int64())),
    ]
)
"""One row is one packed sample of at most `maxLength` tokens. `labels` is `input_ids`, or -100 where nothing is learnt (always
so for the first token of a document: nothing predicts it). `seq_lengths` has the length of each document; its sum is the
sample's length. `row_ids` has the identity of each document's row (a hash of its content)."""
IGNORE = -100
MANIFEST = "manifest.json"
_CAMEL_CASE = ConfigDict(alias_generator=to_camel, populate_by_name=True)


@dataclass(frozen=True)
class Shard:
    """One file of packed samples. `sha256` is of the file's bytes."""

    __pydantic_config__: ClassVar[ConfigDict] = _CAMEL_CASE

    file: str
    samples: int
    tokens: int
    supervised_tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Histogram:
    """Counts of documents by length in tokens: `counts[i]` have a length in [edges[i], edges[i+1])."""

    __pydantic_config__: ClassVar[ConfigDict] = _CAMEL_CASE

    edges: list[int]
    counts: list[int]


@dataclass(frozen=True)
class Statistics:
    """What became of the rows of both splits together. `useful_token_ratio`: tokens / (samples × maxLength), of the
    training split: the share of real tokens when every sample is padded to the full length."""

    __pydantic_config__: ClassVar[ConfigDict] = _CAMEL_CASE

    rows: int
    dropped: dict[str, int]
    truncated: int
    split: int
    tokens: int
    supervised_tokens: int
    useful_token_ratio: float
    lengths: Histogram


@dataclass(frozen=True)
class DataManifest:
    """All that is known of prepared data. `prompts`: beginnings of held-out rows, for samples. `question`: what the
    user says in the first."""

    __pydantic_config__: ClassVar[ConfigDict] = _CAMEL_CASE

    fingerprint: str
    max_length: int
    train: list[Shard]
    validation: list[Shard]
    statistics: Statistics
    prompts: list[str] = field(default_factory=list)
    chat: bool = False
    question: str = ""

    @property
    def train_samples(self) -> int:
        return sum(shard.samples for shard in self.train)

    @property
    def validation_samples(self) -> int:
        return sum(shard.samples for shard in self.validation)

    def to_json(self) -> bytes:
        return _JSON.dump_json(self, by_alias=True, indent=2)

    @classmethod
    def from_json(cls, text: bytes) -> DataManifest:
        return _JSON.validate_json(text)


_JSON = TypeAdapter(DataManifest)


def write_shard(table: pa.Table, path: Path) -> Shard:
    """Write the samples in `table` (SCHEMA) to `path` as an Arrow IPC stream."""
    table = table.cast(SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table, max_chunksize=1024)
    labels = table.column("labels").combine_chunks().flatten().to_numpy()
    return Shard(
        file=path.name,
        samples=table.num_rows,
        tokens=len(labels),
        supervised_tokens=int((labels != IGNORE).sum()),
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
    )


def fetch_shards(store: Store, shards: list[Shard], cache: Path) -> list[Path]:
    """Local paths of `shards`: in place when the store is a local folder, else downloaded to `cache` once and checked.
    Several processes may share a cache."""
    return [store.folder / shard.file if store.folder else _fetch(store, shard, cache) for shard in shards]


def _fetch(store: Store, shard: Shard, cache: Path) -> Path:
    path = cache / shard.file
    if not (path.exists() and path.stat().st_size == shard.bytes):
        store.download(shard.file, path)
        if sha256_of(path) != shard.sha256:
            path.unlink()
            raise infrastructure_error(
                "DataDamaged",
                f"{store.uri}/{shard.file} is not what the manifest says (sha256 differs).",
                f"Delete {store.uri} and run the same command again: the data is prepared anew.",
            )
    return path
