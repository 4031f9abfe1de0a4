"""File formats → rows, one at a time.

In: a file: JSONL (or a JSON array), CSV, Parquet, Arrow, plain text; the text ones also gzipped. Out: each row as JSON text
with the number of the line (of the row, where there are no lines) it stands in, streamed: memory does not grow with the file.
JSON text, because rows of one file may differ in their columns, and Arrow would want one schema for all. What cannot be read
is said with file and line.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import zlib
from collections.abc import Callable

from finetune_training.contract.dataset import Format, SampleBy
from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.cells import why_not
from finetune_training.sources.files import File
from finetune_training.sources.lines import Rows, lines, not_utf8, stream_of
from finetune_training.sources.tables import arrow, parquet

ENDINGS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".arrows": Format.ARROW,
    ".feather": Format.ARROW,
    ".txt": Format.TEXT,
    ".md": Format.TEXT,
}
_PIECE = 2**20
TABLES = {Format.PARQUET: parquet, Format.ARROW: arrow}
"""Formats of columns, of which only those are read that are wanted."""
_BETWEEN = re.compile(r"[\s,]*")


def format_of(file: File) -> Format | None:
    """The format that the file's name tells."""
    name = file.key.lower().removesuffix(".gz")
    return next((known for ending, known in ENDINGS.items() if name.endswith(ending)), None)


def where_of(file: File, format_: Format, number: int) -> str:
    """Where row `number` stands, for people."""
    return f"{file.uri}, row {number}" if format_ in TABLES else f"{file.uri}:{number}"


def read(
    file: File, format_: Format, sample_by: SampleBy, columns: tuple[str, ...] = (), *, look: bool = False
) -> Rows:
    """The file's rows. `columns`: all that is wanted of a table, where it has them; none means everything. `look`: what else it
    has is named."""
    if table := TABLES.get(format_):
        return table(file, columns, look=look)
    if format_ is Format.CSV:
        return _csv(file)
    return _json(file) if format_ is Format.JSONL else _TEXT[sample_by](file)


def _json(file: File) -> Rows:
    with stream_of(file) as stream:
        try:
            begin = stream.read(256)
        except (OSError, zlib.error, EOFError):
            begin = b""  # lines() says it better
    if begin.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return _array(file)
    return ((number, line) for number, line in lines(file) if not line.isspace())


def _goes_on(file: File, number: int) -> FinetuneError:
    return data_error(
        "BrokenJSON",
        f"{file.uri}:{number}: the file begins with an array, and something follows the array.",
        'Write one array of all rows, or one row on each line: a conversation as {"messages": [...]}.',
    )


def _array(file: File) -> Rows:
    """The elements of a JSON array. `buffer` holds text from `at`, which is in line `number`."""
    decode, number, buffer, at = json.JSONDecoder().raw_decode, 1, "", 0
    try:
        with io.TextIOWrapper(stream_of(file), encoding="utf-8-sig") as text:
            buffer, ended = text.read(_PIECE).replace("[", ",", 1), False  # as if it had begun before
            while True:
                begin = _skip(buffer, at)
                number, at = number + buffer.count("\n", at, begin), begin
                if buffer.startswith("]", at):
                    if (buffer[at + 1 :] + text.read(_PIECE)).strip():
                        raise _goes_on(file, number)
                    return
                try:
                    end = decode(buffer, at)[1]
                except json.JSONDecodeError as error:
                    if ended:
                        where = f"{file.uri}:{number + buffer.count(chr(10), at, error.pos)}"
                        raise _broken_json(where, error.msg) from None
                    more = text.read(max(_PIECE, len(buffer) - at))
                    buffer, at, ended = buffer[at:] + more, 0, not more
                    continue
                except (ValueError, RecursionError) as error:
                    raise _broken_json(f"{file.uri}:{number}", why_not(error)) from None
                yield number, buffer[at:end]
                number, at = number + buffer.count("\n", at, end), end
    except UnicodeDecodeError as error:
        number += buffer.count("\n", at) + error.object.count(b"\n", 0, error.start)
        raise not_utf8(f"{file.uri}, at line {number} or after it", error) from None


def _broken_json(where: str, why: str) -> FinetuneError:
    return data_error("BrokenJSON", f"{where}: not JSON: {why}.", "Mend the file.")


def _skip(buffer: str, at: int) -> int:
    between = _BETWEEN.match(buffer, at)
    return between.end() if between else at


def _csv(file: File) -> Rows:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if file.key.lower().removesuffix(".gz").endswith(".tsv") else ","
    reader = csv.reader((line for _, line in lines(file)), delimiter=delimiter, strict=True)
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


def _by_line(file: File) -> Rows:
    for number, line in lines(file):
        yield number, _as_text(line.rstrip("\n"))


def _paragraphs(file: File) -> Rows:
    """Lines up to the next blank one; the number is the first line's."""
    paragraph: list[str] = []
    first = 1
    for number, line in lines(file):
        if line.strip():
            paragraph.append(line.rstrip("\n"))
        else:
            if paragraph:
                yield first, _as_text("\n".join(paragraph))
            paragraph, first = [], number + 1
    if paragraph:
        yield first, _as_text("\n".join(paragraph))


def _document(file: File) -> Rows:
    text = "".join(line for _, line in lines(file))
    if text:
        yield 1, _as_text(text)


def _as_text(text: str) -> str:
    return json.dumps({"text": text}, ensure_ascii=False)


_TEXT: dict[SampleBy, Callable[[File], Rows]] = {
    SampleBy.LINE: _by_line,
    SampleBy.PARAGRAPH: _paragraphs,
    SampleBy.DOCUMENT: _document,
}
