"""Files of prompts → their rows, with every column.

In: a file or a glob of JSONL, CSV, Parquet or text, here or in an object store. Out: its files, in the order of their
names, each with the column that holds its prompts. A wrong name or a missing column is said before a model is loaded.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from finetune_training.contract.dataset import Format, RowKind, SampleBy
from finetune_training.contract.failure import data_error, user_error
from finetune_training.predict.prompts import Prompt, column_of, prompt_of
from finetune_training.sources.columns import Shape
from finetune_training.sources.files import File, find_files
from finetune_training.sources.formats import ENDINGS, format_of, read, where_of
from finetune_training.sources.lines import Rows
from finetune_training.sources.rows import parse
from finetune_training.sources.sourcefiles import SourceFile

_TEXT_COLUMN = "text"


class PromptFile(SourceFile):
    """A file whose rows are asked and kept: all columns are read. A line of a text file is a prompt."""

    def rows(self) -> Rows:
        return read(self.file, self.format, self.sample_by)

    def prompt(self, number: int, text: str) -> tuple[dict[str, Any], Prompt] | None:
        """Row `number` and what it asks; None for an empty line."""
        where = self.where(number)
        row = parse(text, where=where)
        if self.format is Format.TEXT:
            if not row[_TEXT_COLUMN].strip():
                return None
            row = {"prompt": row[_TEXT_COLUMN]}
        return row, prompt_of(row, column=self.shape.columns[0], where=where)


def open_prompts(uri: str) -> list[PromptFile]:
    """The files at `uri`. Raises when there are none, when their format is unknown, or when the first row of one has no
    prompt."""
    files = [_open(file) for file in find_files(uri, field="the input")]
    found = [file for file in files if file]
    if not found:
        raise data_error("NoRows", f"{uri} has no row.", "Put prompts there: a column `prompt` or `messages`.")
    return found


def _open(file: File) -> PromptFile | None:
    format_ = format_of(file)
    if format_ is None:
        raise user_error(
            "FormatUnknown", f"{file.uri} ends in none of {', '.join(ENDINGS)}.", "Rename the file to say its format."
        )
    with closing(read(file, format_, SampleBy.LINE)) as rows:
        first = next(rows, None)
    if first is None:
        return None
    if format_ is Format.TEXT:
        return PromptFile(file, format_, SampleBy.LINE, Shape(RowKind.TEXT, ("prompt",)), False)
    where = where_of(file, format_, first[0])
    row = parse(first[1], where=where)
    column = column_of(row, where=where)
    prompt_of(row, column=column, where=where)
    return PromptFile(file, format_, SampleBy.LINE, Shape(RowKind.TEXT, (column,)), False)
