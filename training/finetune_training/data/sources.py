"""Sources → the files that are read, and what their rows look like.

In: `spec.dataset`. Out: the files of each source, in a fixed order, with their format and the shape of their rows. This
happens before anything heavy starts: a misspelt URI, an empty source or a column that nobody knows is said at once.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from finetune_training.contract.dataset import DatasetSpec, Format, SampleBy, Source
from finetune_training.contract.failure import data_error, user_error
from finetune_training.data.files import File, find_files
from finetune_training.data.formats import ENDINGS, Rows, format_of, read, where_of
from finetune_training.data.rows import Row, Shape, convert, detect, parse


@dataclass(frozen=True)
class SourceFile:
    """One file, and how its rows are read. `held_out`: it belongs to the validation's own source."""

    file: File
    format: Format
    sample_by: SampleBy
    shape: Shape
    held_out: bool

    def rows(self) -> Rows:
        """The rows as JSON, with their numbers."""
        return read(self.file, self.format, self.sample_by, self.shape.columns)

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


def _open(source: Source, dataset: DatasetSpec, *, field: str, held_out: bool) -> list[SourceFile]:
    files = [(file, _format(file, source.format, field=field)) for file in find_files(source.uri, field=f"{field}.uri")]
    shape = _shape(files, source, dataset, field=field)
    return [SourceFile(file, format_, source.sample_by, shape, held_out) for file, format_ in files]


def _shape(files: list[tuple[File, Format]], source: Source, dataset: DatasetSpec, *, field: str) -> Shape:
    """What the source's first row tells."""
    for file, format_ in files:
        with closing(read(file, format_, source.sample_by)) as rows:
            for number, text in rows:
                where = where_of(file, format_, number)
                return detect(parse(text, where=where), kind=dataset.kind, named=dataset.columns, where=where)
    shown = files[0][0].uri if len(files) == 1 else f"{source.uri} ({len(files)} files)"
    raise data_error("NoRows", f"{field}: {shown} has no row.", "Put rows there, or take the source out.")


def _format(file: File, format_: Format, *, field: str) -> Format:
    found = format_of(file) if format_ is Format.AUTO else format_
    if found is None:
        raise user_error(
            "FormatUnknown",
            f"{field}: {file.uri} ends in none of {', '.join(ENDINGS)}.",
            f"Set {field}.format to JSONL, CSV, Parquet or Text.",
        )
    return found
