"""Sources → the files that are read, and what their rows look like.

In: `spec.dataset`. Out: the files of each source, in a fixed order, with their format, the shape of their rows and a survey of
the first of them. This happens before anything heavy starts: a misspelt URI, an empty source, a column that nobody knows or a
row that is wrong from the beginning is said at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from finetune_training.contract.dataset import Columns, DatasetSpec, Format, SampleBy, Source
from finetune_training.contract.failure import data_error, user_error
from finetune_training.sources.columns import Shape, detect, looked_at
from finetune_training.sources.conversion import convert
from finetune_training.sources.files import File, find_files
from finetune_training.sources.formats import ENDINGS, TABLES, format_of, read, where_of
from finetune_training.sources.lines import Rows
from finetune_training.sources.rows import Row, parse
from finetune_training.sources.survey import SURVEYED, UNSURVEYED, Survey, survey

_ENOUGH = 2**20
"""No more characters of a source are looked at than these and those of one row."""


@dataclass(frozen=True)
class SourceFile:
    """One file, and how its rows are read. `held_out`: it belongs to the validation's own source. `survey`: of the source."""

    file: File
    format: Format
    sample_by: SampleBy
    shape: Shape
    held_out: bool
    survey: Survey = UNSURVEYED

    def rows(self) -> Rows:
        """The rows as JSON, with their numbers."""
        return read(self.file, self.format, self.sample_by, self.shape.wanted)

    def where(self, number: int) -> str:
        """Where row `number` stands."""
        return where_of(self.file, self.format, number)

    def convert(self, number: int, text: str) -> Row | None:
        """Row `number` in its kind; None when it holds nothing."""
        where = self.where(number)
        return convert(parse(text, where=where), self.shape, where=where)


def open_sources(dataset: DatasetSpec) -> list[SourceFile]:
    """All files: first those that train, then those of the validation's own source."""
    found = [
        file
        for place, source in enumerate(dataset.train)
        for file in _open(source, dataset, field=f"spec.dataset.train[{place}]", held_out=False)
    ]
    held_out = dataset.validation
    if held_out.uri:
        source = Source(uri=held_out.uri, format=held_out.format, sample_by=held_out.sample_by)
        found += _open(source, dataset, field="spec.dataset.validation", held_out=True)
    return found


def sample(files: Sequence[SourceFile]) -> list[Row]:
    """The first rows of each source that hold something: those by which it is judged before all are read."""
    sources = dict.fromkeys(file.survey.source for file in files)
    return [row for source in sources for row in _sampled([file for file in files if file.survey.source == source])]


def _sampled(files: Sequence[SourceFile]) -> Iterator[Row]:
    rows = characters = 0
    for file in files:
        with closing(file.rows()) as texts:
            for number, text in texts:
                if (row := file.convert(number, text)) is None:
                    continue
                yield row
                rows, characters = rows + 1, characters + len(text)
                if rows >= SURVEYED or characters > _ENOUGH:
                    return


def _open(source: Source, dataset: DatasetSpec, *, field: str, held_out: bool) -> list[SourceFile]:
    files = [(file, _format(file, source.format, field=field)) for file in find_files(source.uri, field=f"{field}.uri")]
    (file, format_), looked = _first_rows(files, source, dataset.columns, field=field)
    where, first = next(((where, row) for where, row in looked if row), looked[0])
    more = [row for _, row in looked]
    shape = detect(first, more=more, kind=dataset.kind, named=dataset.columns, where=where)
    opened = SourceFile(file, format_, source.sample_by, shape, held_out)
    converted = (
        _converted(opened, len(looked))
        if format_ in TABLES
        else (convert(row, shape, where=where) for where, row in looked)
    )
    beside = (dataset.columns.system, dataset.columns.tools)
    surveyed = survey(zip(more, converted, strict=True), shape, source=field, named=beside)
    return [SourceFile(file, format_, source.sample_by, shape, held_out, surveyed) for file, format_ in files]


def _first_rows(
    files: list[tuple[File, Format]], source: Source, named: Columns, *, field: str
) -> tuple[tuple[File, Format], list[tuple[str, dict[str, Any]]]]:
    """The first file that has a row, and some of its rows with their places."""
    for file, format_ in files:
        with closing(read(file, format_, source.sample_by, looked_at(named), look=True)) as rows:
            if first := list(islice(_parsed(rows, file, format_), SURVEYED)):
                return (file, format_), first
    shown = files[0][0].uri if len(files) == 1 else f"{source.uri} ({len(files)} files)"
    raise data_error("NoRows", f"{field}: {shown} has no row.", "Put rows there, or take the source out.")


def _converted(file: SourceFile, count: int) -> list[Row | None]:
    """The first rows, read as they will be: a look at a table passes over what Python has no type for."""
    with closing(file.rows()) as rows:
        return [file.convert(number, text) for number, text in islice(rows, count)]


def _parsed(rows: Rows, file: File, format_: Format) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows until there are enough characters of them: with `sampleBy: Document` a row may be a book."""
    characters = 0
    for number, text in rows:
        where = where_of(file, format_, number)
        yield where, parse(text, where=where)
        characters += len(text)
        if characters > _ENOUGH:
            return


def _format(file: File, format_: Format, *, field: str) -> Format:
    found = format_of(file) if format_ is Format.AUTO else format_
    if found is None:
        raise user_error(
            "FormatUnknown",
            f"{field}: {file.uri} ends in none of {', '.join(ENDINGS)}.",
            f"Set {field}.format to JSONL, CSV, Parquet, Arrow or Text.",
        )
    return found
