"""Documents → packed samples → shards in the object store.

In: the documents of one bucket, in any order. Out: up to two shards, one of samples that train and one of samples that
are held out, and what is known of them. Everything is decided by the rows' hashes, so the same documents give the same
bytes.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_training.data.documents import ROW_ID_BITS
from finetune_training.data.ends import beginning
from finetune_training.data.packing import pack
from finetune_training.data.shards import SCHEMA, Shard, write_shard
from finetune_training.model.tokenizer import Portable
from finetune_training.store.storage import open_store

_PROMPTS = 2
_LOOKED_AT = 16


@dataclass(frozen=True)
class Packing:
    """Where the shards go and how they are packed. Rows whose hash is below `border` are held out, besides those of the
    validation's own source."""

    uri: str
    max_length: int
    packing: bool
    border: int


@dataclass(frozen=True)
class Bucket:
    """What was written of one bucket. `lengths`: how many documents have which length. `prompts`: beginnings of
    held-out rows."""

    number: int
    train: Shard | None
    validation: Shard | None
    lengths: dict[int, int]
    prompts: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Bucket:
        body: dict[str, Any] = json.loads(text)
        for split in ("train", "validation"):
            body[split] = Shard(**body[split]) if body[split] else None
        return cls(**{**body, "lengths": {int(length): count for length, count in body["lengths"].items()}})


def border_of(fraction: float, *, lowest: int, highest: int) -> int:
    """Rows with a hash below this are held out. The row with the lowest hash always is, so that an evaluation exists;
    the one with the highest never, so that something trains. One row alone trains."""
    if fraction <= 0:
        return 0
    return min(max(int(fraction * 2**ROW_ID_BITS), lowest + 1), highest)


def write_bucket(table: pa.Table, number: int, target: Packing, tokenizer: Portable) -> Bucket:
    """Pack a bucket's documents (documents.DOCUMENTS) and upload the shards."""
    table = table.filter(pa.compute.is_null(table.column("summary"))).combine_chunks()
    table = table.sort_by([("row_id", "ascending"), ("piece", "ascending")])
    ids = table.column("row_id").to_numpy()
    held_out = table.column("held_out").to_numpy() | (ids < np.uint64(target.border))
    train, validation = table.filter(pa.array(~held_out)), table.filter(pa.array(held_out))
    lengths, counts = np.unique(_lengths(table), return_counts=True)
    return Bucket(
        number=number,
        train=_write(train, f"train-{number:05d}.arrow", target),
        validation=_write(validation, f"validation-{number:05d}.arrow", target),
        lengths=dict(zip(lengths.tolist(), counts.tolist(), strict=True)),
        prompts=_prompts(validation, tokenizer),
    )


def _write(documents: pa.Table, name: str, target: Packing) -> Shard | None:
    if documents.num_rows == 0:
        return None
    with tempfile.TemporaryDirectory(prefix="finetune-shard-") as folder:
        shard = write_shard(_samples(documents, target), Path(folder) / name)
        open_store(target.uri).upload(Path(folder) / name, name)
    return shard


def _samples(documents: pa.Table, target: Packing) -> pa.Table:
    """Packed samples (shards.SCHEMA)."""
    lengths = _lengths(documents)
    bins = pack(lengths.tolist(), target.max_length) if target.packing else [[index] for index in range(len(lengths))]
    order = np.fromiter(chain.from_iterable(bins), np.int64, len(lengths))
    documents, lengths = documents.take(pa.array(order)), lengths[order]
    ends = np.cumsum([len(each) for each in bins])  # of each sample, in documents
    tokens = np.cumsum(lengths)[ends - 1]  # of each sample, in tokens
    columns = [
        _lists(_flat(documents, "input_ids"), tokens),
        _lists(_flat(documents, "labels"), tokens),
        _lists(pa.array(lengths, pa.int32()), ends),
        _lists(pa.array(documents.column("row_id").to_numpy().view(np.int64)), ends),
    ]
    return pa.table(columns, schema=SCHEMA)


def _lengths(documents: pa.Table) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = pa.compute.list_value_length(documents.column("input_ids")).to_numpy()
    return lengths.astype(np.int64)


def _flat(documents: pa.Table, column: str) -> pa.Array:
    return documents.column(column).combine_chunks().flatten()


def _lists(values: pa.Array, ends: npt.NDArray[np.int64]) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), values)


def _prompts(documents: pa.Table, portable: Portable) -> list[str]:
    """The beginnings of the first rows. Tokenised as usual, special tokens and all, they are the rows' own tokens."""
    firsts = documents.filter(pa.compute.equal(documents.column("piece"), 0)).slice(0, _LOOKED_AT).to_pylist()
    tokenizer = portable.load()
    begin = beginning(tokenizer)
    prompts = [row["input_ids"][: row["prompt"]] for row in firsts if row["prompt"]]
    texts = [str(tokenizer.decode(ids[len(begin) :] if ids[: len(begin)] == begin else ids)) for ids in prompts]
    return list(dict.fromkeys(text for text in texts if text.strip()))[:_PROMPTS]
