"""A block of rows becomes documents and one summary, whatever block the rows are in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finetune_training.contract.dataset import DatasetSpec, LossOn
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.data import documents
from finetune_training.data.documents import DOCUMENTS, ROWS, Preparation, Summary, summary_of, tokenize
from finetune_training.data.render import NO_SUPERVISED_TOKEN, Options
from finetune_training.model.tokenizer import portable
from finetune_training.sources.rows import EMPTY
from finetune_training.sources.sourcefiles import open_sources
from tests.tiny import write_tokenizer


@pytest.fixture
def context(tmp_path: Path) -> Preparation:
    for name in ("train", "held"):
        (tmp_path / f"{name}.jsonl").write_text('{"messages": []}\n')
    dataset = DatasetSpec.model_validate(
        {"train": [{"uri": f"{tmp_path}/train.jsonl"}], "validation": {"uri": f"{tmp_path}/held.jsonl"}}
    )
    return Preparation(
        files=tuple(open_sources(dataset)),
        tokenizer=portable(write_tokenizer(tmp_path / "model"), trust_remote_code=False),
        options=Options(64, LossOn.ASSISTANT),
        buckets=4,
    )


def _chat(question: str, answer: str | None = None) -> str:
    messages = [{"role": "user", "content": question}]
    return json.dumps({"messages": messages + ([{"role": "assistant", "content": answer}] if answer else [])})


def _block(rows: list[str], *, file: int = 0) -> pa.Table:
    return pa.table({"file": [file] * len(rows), "number": range(1, len(rows) + 1), "row": rows}, ROWS)


def _documents(table: pa.Table) -> list[dict[str, Any]]:
    assert table.schema == DOCUMENTS
    rows: list[dict[str, Any]] = table.filter(pa.compute.is_null(table.column("summary"))).to_pylist()
    return sorted(rows, key=lambda row: (row["row_id"], row["piece"]))


def test_the_summary_counts_what_became_of_the_rows(context: Preparation) -> None:
    rows = [_chat("one", "1"), _chat("two"), '{"messages": []}', _chat("three", "3 " * 100), _chat("four " * 90, "4")]
    table = tokenize(_block(rows), context)
    kept = _documents(table)
    assert len(kept) == 2
    summary = summary_of(table)
    assert (summary.rows, summary.conversations, summary.truncated, summary.split) == (5, 4, 1, 0)
    assert summary.dropped == {EMPTY: 1, NO_SUPERVISED_TOKEN: 2}
    assert summary.cut_away == 1
    assert summary.supervised_tokens == sum(label != -100 for row in kept for label in row["labels"])
    assert (summary.lowest, summary.highest) == (kept[0]["row_id"], kept[1]["row_id"])
    assert summary.example is not None
    assert summary.example[0].endswith("train.jsonl:2")
    assert "two" in summary.example[1]


def test_a_summary_survives_json_and_adds_up() -> None:
    one = Summary(rows=2, dropped={"empty": 1}, lowest=5, highest=2**63 + 1, example=("f:2", "text"))
    two = Summary(rows=3, dropped={"other": 2, "empty": 1}, lowest=2**64 - 1, example=("f:1", "first"))
    assert Summary.from_json(one.to_json()) == one
    assert one + Summary() == one
    assert one + two == two + one
    assert (one + two).dropped == {"empty": 2, "other": 2}
    assert ((one + two).lowest, (one + two).highest) == (5, 2**63 + 1)
    assert (one + two).example == ("f:1", "first")


def test_documents_do_not_depend_on_blocks(context: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_chat(f"question {number} " * (number % 7), f"answer {number}") for number in range(40)]
    whole = tokenize(_block(rows), context)
    parts = pa.concat_tables([tokenize(_block(rows[start : start + 7]), context) for start in range(0, 40, 7)])
    monkeypatch.setattr(documents, "_AT_ONCE", 300)
    pieces = tokenize(_block(rows[::-1]), context)
    assert _documents(whole) == _documents(parts) == _documents(pieces)
    assert len(_documents(whole)) == 40
    assert summary_of(whole) == summary_of(parts) == summary_of(pieces)
    assert {row["bucket"] for row in _documents(whole)} == {0, 1, 2, 3}
    assert all(row["bucket"] == row["row_id"] >> 62 for row in _documents(whole))


def test_a_split_text_keeps_its_pieces_in_order(context: Preparation, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    files = open_sources(DatasetSpec.model_validate({"train": [{"uri": f"{tmp_path}/a.txt"}]}))
    context = dataclasses.replace(context, files=tuple(files))
    table = tokenize(_block([json.dumps({"text": "summer's day " * 100})]), context)
    assert [row["piece"] for row in _documents(table)] == list(range(len(_documents(table))))
    assert len({row["row_id"] for row in _documents(table)}) == 1
    assert summary_of(table).split == 1
    tokens = [token for row in _documents(table) for token in row["input_ids"]]
    assert context.tokenizer.load().decode(tokens) == "summer's day " * 100 + "<|endoftext|>"


def test_rows_of_the_validations_own_source_are_held_out_and_do_not_count_as_training(context: Preparation) -> None:
    table = tokenize(_block([_chat("one", "1")], file=1), context)
    assert [row["held_out"] for row in _documents(table)] == [True]
    assert summary_of(table).lowest is None


def test_a_token_without_an_embedding_is_told_with_its_row(context: Preparation) -> None:
    rows = [_chat("one", "1"), _chat("two", "2")]
    whole = dataclasses.replace(context, embeddings=512)
    tokens = [max(row["input_ids"]) for row in _documents(tokenize(_block(rows), whole))]
    few = dataclasses.replace(context, embeddings=max(tokens))
    with pytest.raises(FinetuneError) as caught:
        tokenize(_block(rows), few)
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "TokensWithoutEmbeddings")
    token = context.tokenizer.load().convert_ids_to_tokens(max(tokens))
    assert (
        f"the token {token!r} is number {max(tokens)}, and the model has embeddings for {max(tokens)}"
        in failure.message
    )
    assert "train.jsonl:" in failure.message
    assert "resize_token_embeddings(512)" in failure.remedy


def test_a_block_without_a_document_is_a_table_like_any_other(context: Preparation) -> None:
    table = tokenize(_block(['{"messages": []}']), context)
    assert table.num_rows == 1
    assert _documents(table) == []
    assert summary_of(table) == Summary(rows=1, dropped={EMPTY: 1})
