"""What a person knows of a row → the row.

In: the files of all sources, and a row's place as errors and reports write it (`FILE:LINE`, `FILE, row N`), its number alone, or
its identity. Out: the row where it stands. A number is looked for without reading on; an identity is that of the content,
so all rows may have to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from finetune_training.contract.dataset import Format, SampleBy
from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.sources.rows import Row, identity
from finetune_training.sources.sourcefiles import SourceFile

_PLACE = re.compile(r"(?P<file>.+?)(?::|,\s*row\s+)(?P<number>\d+)")
_IDENTITY = re.compile(r"[0-9a-f]{16}")
_SHOWN = 3


@dataclass(frozen=True)
class Found:
    """A row in its place; `row` is None for one that holds nothing."""

    file: SourceFile
    number: int
    row: Row | None

    @property
    def where(self) -> str:
        return self.file.where(self.number)


def is_identity(wanted: str) -> bool:
    """Whether `wanted` is a row's identity and not its place."""
    return bool(_IDENTITY.fullmatch(wanted.lower()))


def find_rows(files: Sequence[SourceFile], wanted: str) -> list[Found]:
    """The rows at a place (a line of a JSON array may hold several), or the first with an identity; none: there is none with
    it. Raises a User error for a place that is not there."""
    if is_identity(wanted):
        return _with_identity(files, int(wanted, 16))
    place = _PLACE.fullmatch(wanted.strip())
    name, number = (place["file"], int(place["number"])) if place else ("", _number(files, wanted))
    there = [file for file in files if _is_called(file, name)]
    if len(there) != 1:
        raise _unclear(files, there, name, number)
    rows = _at(there[0], number)
    if not rows:
        raise user_error(
            "NoSuchRow", f"There is no row at {there[0].where(number)}.", "Rows are counted as lines are, from 1."
        )
    return rows


def _with_identity(files: Sequence[SourceFile], wanted: int) -> list[Found]:
    for file in files:
        with closing(file.rows()) as rows:
            for number, text in rows:
                row = file.convert(number, text)
                if row is not None and identity(row) == wanted:
                    return [Found(file, number, row)]
    return []


def _at(file: SourceFile, number: int) -> list[Found]:
    return [Found(file, at, file.convert(at, text)) for at, text in _texts_at(file, number)]


def _texts_at(file: SourceFile, number: int) -> list[tuple[int, str]]:
    """The rows that begin there; of a text whose rows have several lines, the one that has the line."""
    around = file.format is Format.TEXT and file.sample_by is not SampleBy.LINE
    found: list[tuple[int, str]] = []
    with closing(file.rows()) as rows:
        for at, text in rows:
            if at > number:
                break
            if at == number:
                found = [*found, (at, text)] if found and found[0][0] == number else [(at, text)]
            elif around:
                found = [(at, text)]
    return found


def _number(files: Sequence[SourceFile], wanted: str) -> int:
    if not wanted.strip().isdigit():
        raise user_error(
            "RowUnclear",
            f"{wanted!r} is neither a row's place nor its identity.",
            f"Write {files[0].file.uri.rsplit('/', 1)[-1]}:12, or the 16 letters and figures that stand beside a row.",
        )
    return int(wanted)


def _is_called(file: SourceFile, name: str) -> bool:
    """A file may be called by the end of its path; no name means any."""
    return not name or file.file.uri == name or file.file.uri.endswith("/" + name.removeprefix("./").lstrip("/"))


def _unclear(files: Sequence[SourceFile], there: list[SourceFile], name: str, number: int) -> FinetuneError:
    shown = ", ".join(_names(there or files))
    message = (
        f"{len(there):,} files have a row {number}." if not name
        else f"{len(there):,} files are called {name}." if there
        else f"No source has a file {name}."
    )  # fmt: skip
    return user_error("RowUnclear", message, f"Write FILE:{number} with one of {shown}.")


def _names(files: Sequence[SourceFile]) -> Iterator[str]:
    yield from (file.file.uri for file in files[:_SHOWN])
    if len(files) > _SHOWN:
        yield f"{len(files) - _SHOWN:,} more"
