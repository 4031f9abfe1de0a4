"""Files of columns → rows: Parquet, Arrow.

In: a file and the columns that are wanted of it. Out: each row as JSON text with its number, batch by batch. A row is given as
it was before it became a part of a table: there a struct has every key that any row has, and a map is a list of pairs; so the
keys that hold nothing are taken out again, or each tool call would be learnt with the arguments of all others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.files import File
from finetune_training.sources.lines import Rows, not_utf8

if TYPE_CHECKING:
    import pyarrow as pa

Broken = Callable[[str, str], FinetuneError]
"""A file's URI and what is wrong with it → the error."""
_ROWS = 256
_PIECE = 4 * 2**20
_FILE_FORMAT = b"ARROW1"
"""How Arrow's file format begins; its stream format has no magic."""


def parquet(file: File, columns: tuple[str, ...]) -> Rows:
    """The rows of a Parquet file, with `columns` alone where the file has those that must be there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[pa.RecordBatch]:
        # Column chunks are read in pieces: a row group may be larger than this process may be.
        with pq.ParquetFile(pa.PythonFile(file.open(), mode="r"), buffer_size=_PIECE, pre_buffer=False) as reader:
            yield from reader.iter_batches(batch_size=_ROWS, columns=_wanted(columns, reader.schema_arrow.names))

    return _rows(file, batches(), _broken_parquet, columns)


def arrow(file: File, columns: tuple[str, ...]) -> Rows:
    """The rows of an Arrow file, of either format: `datasets` writes streams, Feather and others write files."""
    import pyarrow as pa

    def batches() -> Iterator[pa.RecordBatch]:
        with file.open() as raw:
            is_file = raw.read(len(_FILE_FORMAT)) == _FILE_FORMAT
        if is_file:
            reader = pa.ipc.open_file(pa.PythonFile(file.open(), mode="r"))
            found = map(reader.get_batch, range(reader.num_record_batches))
        else:
            found = reader = pa.ipc.open_stream(pa.PythonFile(file.buffered(), mode="r"))
        for batch in found:
            chosen = batch.select(_wanted(columns, reader.schema.names))
            yield from (chosen.slice(start, _ROWS) for start in range(0, chosen.num_rows, _ROWS))

    return _rows(file, batches(), _broken_arrow, columns)


def _wanted(columns: tuple[str, ...], there: list[str]) -> list[str]:
    wanted = [name for name in dict.fromkeys(columns) if name in there]
    return wanted if set(columns[:1] + columns[-1:]) <= set(there) and wanted else there


def _rows(file: File, batches: Iterable[pa.RecordBatch], broken: Broken, columns: tuple[str, ...]) -> Rows:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist(maps_as_pydicts="lossy"):
                number += 1
                bare = {column: _bare(value) for column, value in row.items()}
                plain = partial(_plain, where=f"{file.uri}, row {number}", wanted=bool(columns))
                yield number, json.dumps(bare, ensure_ascii=False, default=plain)
    except (pa.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        raise broken(file.uri, f"{after}: {str(error).rstrip('. ')}.") from error


def _broken_parquet(uri: str, why: str) -> FinetuneError:
    return data_error("BrokenParquet", f"{uri}: broken Parquet{why}", "Write the file anew.")


def _broken_arrow(uri: str, why: str) -> FinetuneError:
    return data_error("BrokenArrow", f"{uri}: broken Arrow{why}", "Write the file anew.")


def _bare(value: Any) -> Any:
    """A nested value without the keys that the table has added."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if item is not None}
    return [_bare(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any, *, where: str, wanted: bool) -> Any:
    """What JSON has no words for. Old writers store text as bytes; bytes that nobody wants may be a picture's."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        if wanted:
            raise not_utf8(where, error) from None
        return value.decode("utf-8", "replace")
