"""A row is found again in the shards, by its identity alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from finetune_training.data.shards import IGNORE, SCHEMA, DataManifest, Histogram, Shard, Statistics, write_shard
from finetune_training.data.whereabouts import whereabouts
from finetune_training.store.storage import Store

HIGH = 2**64 - 5
"""An identity that is negative in a shard."""


def _shard(folder: Path, name: str, samples: list[list[tuple[int, list[int]]]]) -> Shard:
    """Samples of (row, tokens)."""
    columns = {
        "input_ids": [[token for _, ids in sample for token in ids] for sample in samples],
        "labels": [[each for _, ids in sample for each in (IGNORE, *ids[1:])] for sample in samples],
        "seq_lengths": [[len(ids) for _, ids in sample] for sample in samples],
        "row_ids": [[row - 2**64 if row >= 2**63 else row for row, _ in sample] for sample in samples],
    }
    return write_shard(pa.table(columns, SCHEMA), folder / name)


def _data(train: list[Shard], validation: list[Shard]) -> DataManifest:
    statistics = Statistics(1, {}, 0, 0, 2, 1, 0.5, Histogram([1, 65], [1]))
    return DataManifest("f", 64, train, validation, statistics)


def test_all_documents_of_a_row_are_found_with_their_places(tmp_path: Path) -> None:
    many = [[(number, [9, 9])] for number in range(1500)]
    train = _shard(tmp_path, "train-00000.arrow", [*many, [(2000, [1, 2]), (HIGH, [3, 4, 5]), (2001, [6, 7])]])
    held = _shard(tmp_path, "validation-00000.arrow", [[(HIGH, [5, 6])]])
    first, second = whereabouts(Store(str(tmp_path)), _data([train], [held]), HIGH, cache=tmp_path / "cache")
    assert str(first) == "train-00000.arrow, sample 1500, document 2 of 3"
    assert (first.document.input_ids, first.document.labels) == ([3, 4, 5], [IGNORE, 4, 5])
    assert (second.shard, second.document.input_ids) == ("validation-00000.arrow", [5, 6])


def test_a_row_that_is_not_there_has_no_place(tmp_path: Path) -> None:
    train = _shard(tmp_path, "train-00000.arrow", [[(1, [1, 2])]])
    assert whereabouts(Store(str(tmp_path)), _data([train], []), 2, cache=tmp_path) == []
