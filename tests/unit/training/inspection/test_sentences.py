"""A source in a few words."""

from __future__ import annotations

from dataclasses import replace

from finetune_training.contract.dataset import Format, RowKind
from finetune_training.inspection.sentences import columns_of, sentence_of
from tests.unit.training.inspection.test_terminal import SOURCE


def test_a_source_is_one_sentence() -> None:
    assert sentence_of(SOURCE) == "spec.dataset.train[0]: 37 files, 5.4 MB, JSONL; rows are Messages."
    text = replace(SOURCE, formats=(Format.TEXT,), kind=RowKind.TEXT, row="a whole file", files=1, held_out=True)
    assert sentence_of(text) == (
        "spec.dataset.train[0]: 1 file, 5.4 MB, Text; rows are Text, each a whole file; held out."
    )


def test_ignored_columns_are_named_if_there_are_some() -> None:
    assert columns_of(SOURCE) == ("columns: messages", "; ignored: id")
    assert columns_of(replace(SOURCE, ignored=())) == ("columns: messages", "")
