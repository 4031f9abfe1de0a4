"""Sources in a few words, the same on a terminal, in a page, in the log and in the model card."""

from __future__ import annotations

from finetune_training.events import wording
from finetune_training.sources.overview import Overview


def sentence_of(source: Overview) -> str:
    """`spec.dataset.train[0]: 37 files, 5.4 MB, Text; rows are Text, each a whole file.`"""
    return f"{source.source}: {files_of(source)}."


def files_of(source: Overview) -> str:
    """`37 files, 5.4 MB, Text; rows are Text, each a whole file`."""
    formats = " and ".join(format_.value for format_ in source.formats)
    row = f", each {source.row}" if source.row else ""
    held_out = "; held out" if source.held_out else ""
    files = wording.times(source.files, "file")
    return f"{files}, {wording.size(source.bytes)}, {formats}; rows are {source.kind.value}{row}{held_out}"


def columns_of(source: Overview) -> tuple[str, str]:
    """The columns that are used, and the rest of that sentence: those that are not."""
    used = f"columns: {', '.join(source.used) or 'none'}"
    return used, f"; ignored: {', '.join(source.ignored)}" if source.ignored else ""
