"""File formats → rows, one at a time.

In: a file: JSONL (or a JSON array), CSV, Parquet, plain text; the text ones also gzipped. Out: each row as JSON text with
the number of the line (Parquet: of the row) it stands in, streamed: memory does not grow with the file. JSON text,
because rows of one file may differ in their columns, and Arrow would want one schema for all. What cannot be read is said
with file and line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Generator
from typing import Any

from finetune_training.contract.dataset import Format, SampleBy
from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.data.files import File

ENDINGS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".txt": Format.TEXT,
    ".md": Format.TEXT,
}
_PIECE = 2**20
_PARQUET_ROWS = 256
_BETWEEN = re.compile(r"[\s,]*")

Numbered = tuple[int, str]
Rows = Generator[Numbered, None, None]


def format_of(file: File) -> Format | None:
    """The format that the file's name tells."""
    name = file.key.lower().removesuffix(".gz")
    return next((known for ending, known in ENDINGS.items() if name.endswith(ending)), None)


def where_of(file: File, format_: Format, number: int) -> str:
    """Where row `number` stands, for people."""
    return f"{file.uri}, row {number}" if format_ is Format.PARQUET else f"{file.uri}:{number}"


def read(file: File, format_: Format, sample_by: SampleBy, columns: tuple[str, ...] = ()) -> Rows:
    """The file's rows. `columns`: all that is wanted of a Parquet file, where it has them; none means everything."""
    if format_ is Format.PARQUET:
        return _parquet(file, columns)
    if format_ is Format.CSV:
        return _csv(file)
    return _json(file) if format_ is Format.JSONL else _TEXT[sample_by](file)


def _stream(file: File) -> io.BufferedReader | gzip.GzipFile:
    return gzip.GzipFile(fileobj=file.buffered()) if file.key.lower().endswith(".gz") else file.buffered()


def _lines(file: File) -> Rows:
    """The file's lines, with their ends, numbered from 1."""
    number = 0
    try:
        with _stream(file) as stream:
            for number, line in enumerate(stream, 1):
                text = line.decode()
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise _not_utf8(f"{file.uri}:{number}", error) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise data_error("BrokenGzip", f"{file.uri}: broken gzip after line {number}: {error}.") from error


def _not_utf8(where: str, error: UnicodeDecodeError) -> FinetuneError:
    byte = error.object[error.start]
    return data_error("NotUTF8", f"{where}: not UTF-8 (byte 0x{byte:02x}).", "Convert the file to UTF-8.")


def _json(file: File) -> Rows:
    with _stream(file) as stream:
        try:
            begin = stream.read(256)
        except (OSError, zlib.error, EOFError):
            begin = b""  # _lines says it better
    if begin.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return _array(file)
    return ((number, line) for number, line in _lines(file) if not line.isspace())


def _array(file: File) -> Rows:
    """The elements of a JSON array. `buffer` holds text from `at`, which is in line `number`."""
    decode, number, buffer, at = json.JSONDecoder().raw_decode, 1, "", 0
    try:
        with io.TextIOWrapper(_stream(file), encoding="utf-8-sig") as text:
            buffer, ended = text.read(_PIECE).replace("[", ",", 1), False  # as if it had begun before
            while True:
                begin = _skip(buffer, at)
                number, at = number + buffer.count("\n", at, begin), begin
                if buffer.startswith("]", at):
                    return
                try:
                    end = decode(buffer, at)[1]
                except json.JSONDecodeError as error:
                    if ended:
                        where = f"{file.uri}:{number + buffer.count(chr(10), at, error.pos)}"
                        raise data_error("BrokenJSON", f"{where}: not JSON: {error.msg}.", "Mend the file.") from None
                    more = text.read(max(_PIECE, len(buffer) - at))
                    buffer, at, ended = buffer[at:] + more, 0, not more
                    continue
                yield number, buffer[at:end]
                number, at = number + buffer.count("\n", at, end), end
    except UnicodeDecodeError as error:
        number += buffer.count("\n", at) + error.object.count(b"\n", 0, error.start)
        raise _not_utf8(f"{file.uri}, at line {number} or after it", error) from None


def _skip(buffer: str, at: int) -> int:
    between = _BETWEEN.match(buffer, at)
    return between.end() if between else at


def _csv(file: File) -> Rows:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if file.key.lower().removesuffix(".gz").endswith(".tsv") else ","
    reader = csv.reader((line for _, line in _lines(file)), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 1
    try:
        for record in reader:
            if not header and record:
                header = _header(file, record)
            elif record:
                if len(record) != len(header):
                    raise _ragged(file, number, fields=len(record), columns=len(header))
                yield number, json.dumps(dict(zip(header, record, strict=True)), ensure_ascii=False)
            number = reader.line_num + 1
    except csv.Error as error:
        raise data_error("BrokenCSV", f"{file.uri}:{number}: not CSV: {error}.", "Mend the row.") from None


def _header(file: File, record: list[str]) -> list[str]:
    twice = next((name for name in record if record.count(name) > 1), None)
    if twice is not None:
        raise data_error("BrokenCSV", f"{file.uri}:1: the column {twice!r} is there twice.", "Rename one of them.")
    return record


def _ragged(file: File, number: int, *, fields: int, columns: int) -> FinetuneError:
    return data_error(
        "BrokenCSV",
        f"{file.uri}:{number}: the row has {fields} fields, the header has {columns}.",
        'Mend the row; a field with a comma or a line end in it must stand in "quotes".',
    )


def _parquet(file: File, columns: tuple[str, ...]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Column chunks are read in pieces: a row group may be larger than this process may be.
        with pq.ParquetFile(pa.PythonFile(file.open(), mode="r"), buffer_size=4 * _PIECE, pre_buffer=False) as reader:
            there = reader.schema_arrow.names
            wanted = (
                [name for name in columns if name in there] if set(columns[:1] + columns[-1:]) <= set(there) else there
            )
            for batch in reader.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted or there):
                for row in batch.to_pylist():
                    number += 1
                    yield number, json.dumps(row, ensure_ascii=False, default=_plain)
    except (pa.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        raise data_error(
            "BrokenParquet", f"{file.uri}: broken Parquet{after}: {str(error).rstrip('. ')}.", "Write the file anew."
        ) from error


def _plain(value: Any) -> Any:
    """What JSON has no words for. Old writers store text as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _text_lines(file: File) -> Rows:
    for number, line in _lines(file):
        yield number, _as_text(line.rstrip("\r\n"))


def _paragraphs(file: File) -> Rows:
    """Lines up to the next blank one; the number is the first line's."""
    lines: list[str] = []
    first = 1
    for number, line in _lines(file):
        if line.strip():
            lines.append(line.rstrip("\r\n"))
        else:
            if lines:
                yield first, _as_text("\n".join(lines))
            lines, first = [], number + 1
    if lines:
        yield first, _as_text("\n".join(lines))


def _document(file: File) -> Rows:
    text = "".join(line for _, line in _lines(file))
    if text:
        yield 1, _as_text(text)


def _as_text(text: str) -> str:
    return json.dumps({"text": text}, ensure_ascii=False)


_TEXT: dict[SampleBy, Callable[[File], Rows]] = {
    SampleBy.LINE: _text_lines,
    SampleBy.PARAGRAPH: _paragraphs,
    SampleBy.DOCUMENT: _document,
}
