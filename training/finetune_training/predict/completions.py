"""Rows with completions → a file of the user's.

In: rows as they are made, and where they go: a JSONL or Parquet file, or a folder, here or in an object store. Out: that
file, whole or not at all; or a folder of parts, each written when it is full, so that a long job that breaks off has not
worked for nothing. Rows may differ in their columns: Parquet gets the schema that fits them all.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_training.contract.dataset import Format
from finetune_training.contract.failure import data_error, user_error
from finetune_training.store.storage import Store, local_path, open_store

ROWS_PER_PART = 10_000
_ENDINGS = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".parquet": Format.PARQUET}
_ROWS_AT_ONCE = 1000
Row = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """Where rows go. `name`: of the one file; empty: parts in that folder."""

    store: Store
    name: str
    format: Format

    def write(self, rows: Iterable[Row]) -> int:
        """Write all rows, in their order, and return how many there were."""
        rows = iter(rows)
        if self.name:
            return self._file(self.name, rows)
        ending = next(ending for ending, known in _ENDINGS.items() if known is self.format)
        written = part = 0
        while (first := next(rows, None)) is not None:
            of_part = itertools.chain([first], itertools.islice(rows, ROWS_PER_PART - 1))
            written += self._file(f"part-{part:05d}{ending}", of_part)
            part += 1
        return written

    def _file(self, name: str, rows: Iterator[Row]) -> int:
        with tempfile.TemporaryDirectory(prefix="finetune-completions-") as folder:
            lines, path = Path(folder) / "rows.jsonl", Path(folder) / "out"
            count = _write_lines(rows, lines)
            if self.format is Format.PARQUET:
                _write_parquet(lines, path, name=name)
            self.store.upload(path if self.format is Format.PARQUET else lines, name)
        return count


def open_output(uri: str, *, parts: Format = Format.JSONL) -> Output:
    """The output at `uri`: a file by its ending, else a folder of `parts`. Raises a User error when it cannot be
    written, or when the folder has parts already."""
    path = local_path(uri)
    folder, _, name = (str(path) if path else uri.rstrip("/")).rpartition("/")
    found = next((known for ending, known in _ENDINGS.items() if name.lower().endswith(ending)), None)
    if uri.endswith("/") or (path and path.is_dir()):
        output = _folder(uri, parts)
    elif found:
        output = Output(open_store(folder or "/"), name, found)
    elif "." in name:
        raise user_error(
            "OutputUnknown", f"{uri} ends in none of {', '.join(_ENDINGS)}.", "Use one of them, or name a folder."
        )
    else:
        output = _folder(uri, parts)
    output.store.probe()
    return output


def _folder(uri: str, parts: Format) -> Output:
    store = open_store(uri)
    if any(entry.key.startswith("part-") for entry in store.files()):
        raise user_error("OutputExists", f"{uri} has parts of an earlier run already.", "Name another folder.")
    return Output(store, "", parts)


def _write_lines(rows: Iterator[Row], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(lines: Path, path: Path, *, name: str) -> None:
    """Two passes: the schema that fits all rows, then the rows. Memory does not grow with their number."""
    try:
        schema = pa.schema([])
        for rows in _batches(lines):
            schema = pa.unify_schemas([schema, _table(rows).schema], promote_options="permissive")
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for rows in _batches(lines):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise data_error(
            "ColumnsDiffer",
            f"{name}: the rows do not fit into one table: {error}",
            "Make the column's values of one type, or write JSONL.",
        ) from error


def _table(rows: list[Row]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _batches(lines: Path) -> Iterator[list[Row]]:
    with lines.open(encoding="utf-8") as file:
        while rows := [json.loads(line) for line in itertools.islice(file, _ROWS_AT_ONCE)]:
            yield rows
