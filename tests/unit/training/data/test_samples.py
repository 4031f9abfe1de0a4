"""Documents become shards that depend on nothing but the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_training.data.documents import DOCUMENTS
from finetune_training.data.samples import Bucket, Packing, border_of, write_bucket
from finetune_training.data.shards import IGNORE, Shard
from finetune_training.model.tokenizer import Portable, portable
from tests.tiny import write_tokenizer

LAST = 2**64 - 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Portable:
    return portable(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), trust_remote_code=False)


def _documents(count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(count):
        row_id = number * 11400714819323198485 % 2**64
        tokens = [100 + number % 50] * (3 + number * 7 % 30)
        labels = [IGNORE, *tokens[1:]]
        rows.append({"row_id": row_id, "piece": 0, "bucket": 0, "held_out": False, "prompt": 2})
        rows[-1] |= {"input_ids": tokens, "labels": labels, "summary": None}
    return rows


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, DOCUMENTS)


def _read(folder: Path, shard: Shard | None) -> list[dict[str, Any]]:
    assert shard is not None
    with pa.ipc.open_stream(folder / shard.file) as stream:
        rows: list[dict[str, Any]] = stream.read_all().to_pylist()
    return rows


def _split(sample: dict[str, Any]) -> list[tuple[int, list[int], list[int]]]:
    """(row id, tokens, labels) of each document in a sample."""
    found, start = [], 0
    for row_id, length in zip(sample["row_ids"], sample["seq_lengths"], strict=True):
        end = start + length
        found.append((row_id % 2**64, sample["input_ids"][start:end], sample["labels"][start:end]))
        start = end
    assert start == len(sample["input_ids"]) == len(sample["labels"])
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_every_document_is_in_one_sample_of_its_split(tmp_path: Path, tokenizer: Portable, packing: bool) -> None:
    rows = _documents(200)
    border = sorted(row["row_id"] for row in rows)[20]
    bucket = write_bucket(_table(rows), 3, Packing(str(tmp_path), 64, packing, border), tokenizer)
    assert bucket.train is not None
    assert bucket.validation is not None
    assert (bucket.train.file, bucket.validation.file) == ("train-00003.arrow", "validation-00003.arrow")
    train, held_out = _read(tmp_path, bucket.train), _read(tmp_path, bucket.validation)
    assert all(len(sample["input_ids"]) <= 64 for sample in train + held_out)
    for samples, expected in (
        (train, [row for row in rows if row["row_id"] >= border]),
        (held_out, [row for row in rows if row["row_id"] < border]),
    ):
        found = sorted(document for sample in samples for document in _split(sample))
        assert found == sorted((row["row_id"], row["input_ids"], row["labels"]) for row in expected)
    if packing:
        assert sum(len(sample["input_ids"]) for sample in train) / (64 * len(train)) > 0.95
    else:
        assert len(train) == 180
    assert sum(bucket.lengths.values()) == 200
    assert sum(length * count for length, count in bucket.lengths.items()) == (
        bucket.train.tokens + bucket.validation.tokens
    )
    assert bucket.train.supervised_tokens == sum(len(row["input_ids"]) - 1 for row in rows if row["row_id"] >= border)


def test_the_order_of_the_documents_does_not_matter(tmp_path: Path, tokenizer: Portable) -> None:
    rows = _documents(100)
    rows += [row | {"piece": piece} for piece in (1, 2) for row in rows[:5]]
    shards = []
    for name, order in (("a", rows), ("b", rows[::-1]), ("c", rows[50:] + rows[:50])):
        bucket = write_bucket(_table(order), 0, Packing(str(tmp_path / name), 64, True, 2**60), tokenizer)
        shards.append((bucket.train, bucket.validation, bucket.prompts))
    assert shards[0] == shards[1] == shards[2]


def test_rows_of_the_validations_own_source_are_held_out(tmp_path: Path, tokenizer: Portable) -> None:
    rows = [row | {"held_out": number % 2 == 0} for number, row in enumerate(_documents(10))]
    bucket = write_bucket(_table(rows), 0, Packing(str(tmp_path), 64, False, 0), tokenizer)
    assert bucket.train is not None
    assert bucket.validation is not None
    assert (bucket.train.samples, bucket.validation.samples) == (5, 5)


def test_a_bucket_without_documents_writes_no_shard(tmp_path: Path, tokenizer: Portable) -> None:
    bucket = write_bucket(_table([]), 0, Packing(str(tmp_path / "out"), 64, True, 0), tokenizer)
    assert bucket == Bucket(0, None, None, {}, [])
    assert not (tmp_path / "out").exists()


def test_a_bucket_survives_json(tmp_path: Path, tokenizer: Portable) -> None:
    bucket = write_bucket(_table(_documents(30)), 7, Packing(str(tmp_path), 64, True, 2**62), tokenizer)
    assert bucket.prompts
    assert Bucket.from_json(bucket.to_json()) == bucket


def test_prompts_are_different_beginnings_that_tokenise_to_the_rows_own_tokens(
    tmp_path: Path, tokenizer: Portable
) -> None:
    tokens = [tokenizer.load().encode(text) for text in ("Shall I compare", "Shall I compare", "Rough winds do")]
    rows = [
        row | {"input_ids": ids, "labels": ids, "prompt": len(ids) - 1}
        for row, ids in zip(_documents(3), tokens, strict=True)
    ]
    bucket = write_bucket(_table(rows), 0, Packing(str(tmp_path), 64, True, LAST), tokenizer)
    assert len(bucket.prompts) == 2
    assert {tuple(tokenizer.load().encode(prompt)) for prompt in bucket.prompts} == {
        tuple(tokens[0][:-1]),
        tuple(tokens[2][:-1]),
    }


@given(st.floats(0.001, 0.5), st.sets(st.integers(0, LAST), min_size=2, max_size=20))
def test_the_border_leaves_rows_on_both_sides(fraction: float, identities: set[int]) -> None:
    border = border_of(fraction, lowest=min(identities), highest=max(identities))
    held_out = {each for each in identities if each < border}
    assert held_out
    assert held_out != identities
    wanted = {each for each in identities if each < fraction * 2**64}
    if wanted and wanted != identities:
        assert held_out == wanted
    # A larger share only adds rows.
    assert border_of(fraction / 2, lowest=min(identities), highest=max(identities)) <= border


def test_a_row_alone_trains_and_a_share_of_nothing_holds_nothing_out() -> None:
    assert border_of(0.5, lowest=7, highest=7) <= 7
    assert border_of(0.0, lowest=7, highest=9) == 0
