"""Files of columns → rows: Parquet, Arrow.

In: a file and the columns that are wanted of it. Out: each row as JSON text with its number, batch by batch. A row is given as
it was before it became a part of a table: there a struct has every key that any row has, and a map is a list of pairs; so the
keys that hold nothing are taken out again, or each tool call would be learnt with the arguments of all others. What nobody
wants is not read: a picture is large, and Arrow has types that Python has not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Choice:
    """What of a table is read: the columns `places` in it. `named`: other columns, whose rows are given null. `wanted`: a value
    that cannot be given is an error, and not its type's name."""

    places: tuple[int, ...]
    named: tuple[str, ...] = ()
    wanted: bool = False


def parquet(file: File, columns: tuple[str, ...], *, look: bool = False) -> Rows:
    """The rows of a Parquet file. `columns` alone, where it has the first and the last of them, or else all columns; `look`:
    those of them that there are, and the names of all others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[tuple[pa.RecordBatch, _Choice]]:
        # Column chunks are read in pieces: a row group may be larger than this process may be.
        with pq.ParquetFile(pa.PythonFile(file.open(), mode="r"), buffer_size=_PIECE, pre_buffer=False) as reader:
            names = reader.schema_arrow.names
            choice = _choice(columns, names, look=look, where=file.uri)
            read = list(dict.fromkeys(names[place] for place in choice.places))
            for batch in reader.iter_batches(batch_size=_ROWS, columns=read):
                yield batch, choice

    return _rows(file, batches(), _broken_parquet)


def arrow(file: File, columns: tuple[str, ...], *, look: bool = False) -> Rows:
    """The rows of an Arrow file, of either format: `datasets` writes streams, Feather and others write files. What of them
    is as with Parquet."""
    import pyarrow as pa

    def batches() -> Iterator[tuple[pa.RecordBatch, _Choice]]:
        with file.open() as raw:
            is_file = raw.read(len(_FILE_FORMAT)) == _FILE_FORMAT
        if is_file:
            reader = pa.ipc.open_file(pa.PythonFile(file.open(), mode="r"))
            found = map(reader.get_batch, range(reader.num_record_batches))
        else:
            found = reader = pa.ipc.open_stream(pa.PythonFile(file.buffered(), mode="r"))
        choice = _choice(columns, reader.schema.names, look=look, where=file.uri)
        for batch in found:
            chosen = batch.select(list(choice.places))
            yield from ((chosen.slice(start, _ROWS), choice) for start in range(0, chosen.num_rows, _ROWS))

    return _rows(file, batches(), _broken_arrow)


def _choice(columns: tuple[str, ...], there: list[str], *, look: bool, where: str) -> _Choice:
    places = tuple(place for place, name in enumerate(there) if name in columns)
    if look:
        return _Choice(places, tuple(name for name in there if name not in columns))
    if not columns or not {columns[0], columns[-1]} <= set(there):
        return _Choice(tuple(range(len(there))))
    twice = next((name for name in columns if there.count(name) > 1), None)
    if twice is not None:
        raise data_error("ColumnTwice", f"{where}: the column {twice!r} is there twice.", "Rename one of them.")
    return _Choice(places, wanted=True)


def _rows(file: File, batches: Iterable[tuple[pa.RecordBatch, _Choice]], broken: Broken) -> Rows:
    import pyarrow as pa

    number = 0
    try:
        for batch, choice in batches:
            columns = [
                _values(batch, place, choice, where=partial(_where, file, number)) for place in range(batch.num_columns)
            ]
            others = dict.fromkeys(choice.named)
            for row in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
                number += 1
                plain = partial(_plain, where=_where(file, number), wanted=choice.wanted)
                bare = {name: _bare(value, plain) for name, value in zip(batch.schema.names, row, strict=True)}
                yield number, json.dumps(bare | others, ensure_ascii=False, default=plain)
    except (pa.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        raise broken(file.uri, f"{after}: {str(error).rstrip('. ')}.") from error


def _where(file: File, number: int, place: int = 0) -> str:
    return f"{file.uri}, row {number + place}"


def _values(batch: pa.RecordBatch, place: int, choice: _Choice, *, where: Callable[[int], str]) -> list[Any]:
    """A column's values in Python's types, which hold less than Arrow's: its years end with 9999, its text is all UTF-8."""
    import pyarrow as pa

    name, column = batch.schema.names[place], batch.column(place)
    unreadable = (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, TypeError, OverflowError, KeyError)
    try:
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    except unreadable:
        found = []
    for row, value in enumerate(column, 1):
        try:
            found.append(value.as_py(maps_as_pydicts="lossy"))
        except unreadable as error:
            if choice.wanted:
                raise _unreadable(name, value.type, error, where=where(row)) from None
            found.append(f"<{value.type}>")
    return found


def _unreadable(name: str, kind: pa.DataType, error: Exception, *, where: str) -> FinetuneError:
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(where, error)
    return data_error(
        "WrongType",
        f"{where}: {name} is {kind}, and has a value that cannot be read: {str(error).rstrip('. ')}.",
        "Write the column as text, or name another one in spec.dataset.columns.",
    )


def _broken_parquet(uri: str, why: str) -> FinetuneError:
    return data_error("BrokenParquet", f"{uri}: broken Parquet{why}", "Write the file anew.")


def _broken_arrow(uri: str, why: str) -> FinetuneError:
    return data_error("BrokenArrow", f"{uri}: broken Arrow{why}", "Write the file anew.")


def _bare(value: Any, plain: Callable[[Any], Any]) -> Any:
    """A nested value without the keys that the table has added; JSON's keys are text, and a map's may be anything."""
    if isinstance(value, dict):
        bare = {key: _bare(item, plain) for key, item in value.items() if item is not None}
        return {key if isinstance(key, str | int | float) else plain(key): item for key, item in bare.items()}
    return [_bare(item, plain) for item in value] if isinstance(value, list) else value


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
