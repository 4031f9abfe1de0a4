"""Files → tokenised documents → shards, by Ray Data, on all nodes.

In: the files and a `Preparation`. Out: packed shards in the object store, and what is known of them. Blocks arrive in any
order; documents are grouped into buckets by the high bits of their row's hash, sorted by it and packed, so the same rows
give the same bytes on any number of nodes. The number of buckets depends on the sources' size alone.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from finetune_training.data.documents import ROWS, Preparation, Summary, summary_of, tokenize
from finetune_training.data.samples import Bucket, Packing, write_bucket
from finetune_training.sources.sourcefiles import SourceFile

ROWS_PER_BLOCK = 2000
"""Rows in a block that is tokenised by one task: a small file, or one large one, still keeps every core busy (a Parquet file
is one block otherwise, ray#63817)."""
_BYTES_PER_TASK = 2**20
"""Files are read together up to this size; it also bounds the blocks of a source whose rows are whole files."""
_ROWS_AT_ONCE = 2000
_CHARACTERS_AT_ONCE = 4 * 2**20
_BLOCKS_PER_SUMMARY = 32


class RowsDatasource(Datasource):  # type: ignore[misc]
    """The rows of the sources' files (documents.ROWS)."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        super().__init__()
        self._files = files

    def get_name(self) -> str:
        return "Rows"

    def estimate_inmemory_data_size(self) -> int:
        return sum(file.file.size for file in self._files)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                lambda group=group: _blocks(group),
                BlockMetadata(
                    num_rows=None,
                    size_bytes=sum(file.file.size for _, file in group),
                    input_files=[file.file.uri for _, file in group],
                    exec_stats=None,
                ),
                per_task_row_limit=per_task_row_limit,
            )
            for group in _groups(self._files)
        ]


@contextmanager
def settings() -> Iterator[None]:
    """How Ray Data runs here: what a row's error says arrives as it was raised, and is not also printed with a hundred
    lines of traceback and a request to report it to Ray. Ray Data's own log file keeps everything."""
    context = ray.data.DataContext.get_current()
    ours = {"raise_original_map_exception": True, "enable_progress_bars": False, "print_on_execution_start": False}
    theirs = {name: getattr(context, name) for name in ours}
    handlers = logging.getLogger("ray.data").handlers
    consoles = [(handler, handler.level) for handler in handlers if isinstance(handler, logging.StreamHandler)]
    for name, value in ours.items():
        setattr(context, name, value)
    for handler, _ in consoles:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, value in theirs.items():
            setattr(context, name, value)
        for handler, level in consoles:
            handler.setLevel(level)


def tokenized(context: Preparation) -> Any:
    """All documents (documents.DOCUMENTS), in Ray's object store."""
    reference = ray.put(context)
    return (
        ray.data.read_datasource(RowsDatasource(context.files))
        .repartition(target_num_rows_per_block=ROWS_PER_BLOCK)
        .map_batches(
            _tokenize_block,
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            fn_kwargs={"reference": reference},
        )
        .materialize()
    )


def summarize(documents: Any) -> Summary:
    """What became of all rows."""
    blocks = documents.to_arrow_refs()
    summarized = ray.remote(_summarize_blocks)
    groups = [blocks[start : start + _BLOCKS_PER_SUMMARY] for start in range(0, len(blocks), _BLOCKS_PER_SUMMARY)]
    return sum(ray.get([summarized.remote(*group) for group in groups]), Summary())


def write(documents: Any, context: Preparation, target: Packing) -> list[Bucket]:
    """Pack the documents and write the shards, one task per bucket."""
    reference = ray.put(context)
    if context.buckets == 1:  # nothing to shuffle
        return [ray.get(ray.remote(_write_blocks).remote(target, reference, *documents.to_arrow_refs()))]
    written = documents.groupby("bucket", num_partitions=context.buckets).map_groups(
        _write_group, batch_format="pyarrow", fn_kwargs={"target": target, "reference": reference}
    )
    buckets = [Bucket.from_json(row["bucket"]) for row in written.take_all()]
    return sorted(buckets, key=lambda bucket: bucket.number)


def _groups(files: Sequence[SourceFile]) -> Iterator[list[tuple[int, SourceFile]]]:
    group: list[tuple[int, SourceFile]] = []
    size = 0
    for index, file in enumerate(files):
        if group and size + file.file.size > _BYTES_PER_TASK:
            yield group
            group, size = [], 0
        group.append((index, file))
        size += file.file.size
    if group:
        yield group


def _blocks(group: list[tuple[int, SourceFile]]) -> Iterator[pa.Table]:
    places: list[tuple[int, int]] = []
    rows: list[str] = []
    characters = 0
    for index, file in group:
        for number, row in file.rows():
            places.append((index, number))
            rows.append(row)
            characters += len(row)
            if len(rows) >= _ROWS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
                yield _block(places, rows)
                places, rows, characters = [], [], 0
    if rows:
        yield _block(places, rows)


def _block(places: list[tuple[int, int]], rows: list[str]) -> pa.Table:
    files, numbers = zip(*places, strict=True)
    return pa.table({"file": files, "number": numbers, "row": rows}, ROWS)


def _tokenize_block(table: pa.Table, reference: Any) -> pa.Table:
    context = _context(reference)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # Ray runs a task on every core already
    # Tokens are millions of small objects without cycles: looking for some takes 40 % of the time.
    gc.disable()
    try:
        return tokenize(table, context)
    finally:
        gc.enable()


def _summarize_blocks(*blocks: pa.Table) -> Summary:
    return sum(map(summary_of, blocks), Summary())


def _write_blocks(target: Packing, context: Preparation, *blocks: pa.Table) -> Bucket:
    return write_bucket(pa.concat_tables(blocks), 0, target, context.tokenizer)


def _write_group(table: pa.Table, target: Packing, reference: Any) -> pa.Table:
    number = table.column("bucket")[0].as_py()
    bucket = write_bucket(table, number, target, _context(reference).tokenizer)
    return pa.table({"bucket": [bucket.to_json()]})


@lru_cache(maxsize=1)
def _context(reference: Any) -> Preparation:
    """Fetched once per process, not once per block."""
    context: Preparation = ray.get(reference)
    return context
