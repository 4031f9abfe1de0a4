"""A source's files → what a person wants to know of the source.

In: the files that sources/sourcefiles.py has opened. Out: an `Overview` of each source, and one sentence that says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_training.contract.dataset import Format, RowKind, SampleBy
from finetune_training.sources.sourcefiles import SourceFile

_WHOLE = {SampleBy.LINE: "a line", SampleBy.PARAGRAPH: "a paragraph", SampleBy.DOCUMENT: "a whole file"}


@dataclass(frozen=True)
class Overview:
    """`source`: where it stands in the spec. `used`: the columns that hold the rows; `ignored`: what nothing uses. `row`: what a
    row of plain text is. `first`: a file of it."""

    source: str
    held_out: bool
    files: int
    bytes: int
    formats: tuple[Format, ...]
    kind: RowKind
    columns: tuple[str, ...]
    used: tuple[str, ...]
    ignored: tuple[str, ...]
    row: str
    first: str


def overviews(files: Sequence[SourceFile]) -> list[Overview]:
    """The sources in the order of the spec."""
    sources = dict.fromkeys(file.survey.source for file in files)
    return [_overview([file for file in files if file.survey.source == source]) for source in sources]


def _overview(files: list[SourceFile]) -> Overview:
    first = files[0]
    columns, ignored = first.survey.columns, first.survey.ignored
    return Overview(
        source=first.survey.source,
        held_out=first.held_out,
        files=len(files),
        bytes=sum(file.file.size for file in files),
        formats=tuple(dict.fromkeys(file.format for file in files)),
        kind=first.shape.kind,
        columns=columns,
        used=tuple(column for column in columns if column not in ignored),
        ignored=ignored,
        row=_WHOLE[first.sample_by] if first.format is Format.TEXT else "",
        first=first.file.uri,
    )
