"""What is found out about the sources before anything heavy starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.dataset import DatasetSpec, Format, RowKind, SampleBy
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.columns import Shape
from finetune_training.sources.rows import Messages, PromptCompletion, Text
from finetune_training.sources.sourcefiles import open_sources, sample
from finetune_training.sources.survey import SURVEYED


def _dataset(*train: dict[str, Any], **fields: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"train": list(train), **fields})


def _write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_source_has_its_own_format_shape_and_sampling(tmp_path: Path) -> None:
    pairs = _write(tmp_path / "pairs.jsonl", {"prompt": "q", "completion": "a"})
    (tmp_path / "text.txt").write_text("one\n\ntwo\n")
    (tmp_path / "held").write_text("{}\nfour\n")
    dataset = _dataset(
        {"uri": pairs},
        {"uri": f"{tmp_path}/*.txt", "sampleBy": "Paragraph"},
        validation={"uri": f"{tmp_path}/held", "format": "Text"},
    )
    first, second, third = open_sources(dataset)
    assert (first.format, first.shape) == (
        Format.JSONL,
        Shape(RowKind.PROMPT_COMPLETION, ("prompt", "completion")),
    )
    assert (second.format, second.sample_by, second.shape) == (
        Format.TEXT,
        SampleBy.PARAGRAPH,
        Shape(RowKind.TEXT, ("text",)),
    )
    assert [source.held_out for source in (first, second, third)] == [False, False, True]
    assert [first.convert(*row) for row in first.rows()] == [PromptCompletion("q", "a", f"{pairs}:1")]
    assert [second.convert(*row) for row in second.rows()] == [
        Text("one", f"{tmp_path}/text.txt:1"),
        Text("two", f"{tmp_path}/text.txt:3"),
    ]


def test_the_first_file_that_has_a_row_tells_the_shape(tmp_path: Path) -> None:
    _write(tmp_path / "a.jsonl")
    _write(tmp_path / "b.jsonl", {"q": "1", "a": "2"})
    found = open_sources(
        _dataset({"uri": f"{tmp_path}/*.jsonl"}, columns={"prompt": "q", "completion": "a"}),
    )
    assert [(source.file.key[-7:], source.shape.columns) for source in found] == [
        ("a.jsonl", ("q", "a")),
        ("b.jsonl", ("q", "a")),
    ]


@pytest.mark.parametrize("name", ["empty.jsonl", "*.jsonl"])
def test_a_source_without_a_row_is_a_data_error(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "empty.jsonl")
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(FinetuneError) as caught:
        open_sources(_dataset({"uri": f"{tmp_path}/{name}"}))
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.DATA, "NoRows")
    assert failure.message.startswith("spec.dataset.train[0]: ")


def test_errors_name_the_field_of_the_source(tmp_path: Path) -> None:
    good = {"uri": _write(tmp_path / "good.jsonl", {"text": "t"})}
    with pytest.raises(FinetuneError, match=r"spec\.dataset\.train\[1\]\.uri: no file matches"):
        open_sources(_dataset(good, {"uri": f"{tmp_path}/no.jsonl"}))
    with pytest.raises(FinetuneError, match=r"spec\.dataset\.validation\.uri: no file matches"):
        open_sources(_dataset(good, validation={"uri": f"{tmp_path}/no.jsonl"}))


def test_an_ending_that_nobody_knows_is_the_users_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError) as caught:
        open_sources(_dataset({"uri": _write(tmp_path / "data.bin", {"text": "t"})}))
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.USER, "FormatUnknown")
    assert "spec.dataset.train[0].format" in caught.value.failure.remedy


def test_columns_that_nobody_knows_are_said_with_the_first_rows_place(tmp_path: Path) -> None:
    path = _write(tmp_path / "data.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(FinetuneError) as caught:
        open_sources(_dataset({"uri": path}))
    assert caught.value.failure.message.startswith(f"{path}:1: ")
    assert "'question', 'answer'" in caught.value.failure.message


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
PAIR = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize("empty", [None, "", [], " "])
@pytest.mark.parametrize(
    ("rows", "kind", "columns"),
    [
        ([{"messages": ..., "text": "t"}, {"messages": CHAT, "text": ...}], RowKind.MESSAGES, ("messages",)),
        ([{"messages": ..., "text": "t"}] * 2, RowKind.TEXT, ("text",)),
        ([{"messages": ..., **PAIR}] * 2, RowKind.PROMPT_COMPLETION, ("prompt", "completion")),
        ([{"messages": ..., "conversations": CHAT}], RowKind.MESSAGES, ("conversations",)),
        ([{"prompt": ..., "completion": ...}, PAIR], RowKind.PROMPT_COMPLETION, ("prompt", "completion")),
        ([{"messages": ...}], RowKind.MESSAGES, ("messages",)),
    ],
)
def test_a_column_that_holds_nothing_does_not_tell_the_kind(
    tmp_path: Path, rows: list[dict[str, Any]], kind: RowKind, columns: tuple[str, ...], empty: Any
) -> None:
    filled = [{name: empty if value is ... else value for name, value in row.items()} for row in rows]
    shape = open_sources(_dataset({"uri": _write(tmp_path / "a.jsonl", *filled)}))[0].shape
    assert (shape.kind, shape.columns) == (kind, columns)


@pytest.mark.parametrize("value", [12, True, "User: hi", 0.5])
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_column_that_is_only_called_messages_does_not_tell_the_kind(tmp_path: Path, value: Any, column: str) -> None:
    file = open_sources(_dataset({"uri": _write(tmp_path / "a.jsonl", {column: value, "text": "t"})}))[0]
    assert (file.shape.kind, file.survey.ignored) == (RowKind.TEXT, (column,))
    with pytest.raises(FinetuneError, match=f"{column} should be a list of messages, but is "):
        open_sources(_dataset({"uri": _write(tmp_path / "b.jsonl", {column: value})}))


def test_a_row_without_any_column_is_empty_also_as_the_first(tmp_path: Path) -> None:
    file = open_sources(_dataset({"uri": _write(tmp_path / "a.jsonl", {}, PAIR, {})}))[0]
    place = f"{tmp_path}/a.jsonl:2"
    assert [file.convert(*row) for row in file.rows()] == [None, PromptCompletion("q", "a", place), None]


def test_what_stands_beside_a_later_pair_makes_all_pairs_conversations(tmp_path: Path) -> None:
    file = open_sources(_dataset({"uri": _write(tmp_path / "a.jsonl", PAIR, {**PAIR, "system": "s"})}))[0]
    assert file.shape.kind is RowKind.MESSAGES
    assert all(isinstance(file.convert(*row), Messages) for row in file.rows())


def test_a_source_is_judged_by_its_first_rows_that_hold_something(tmp_path: Path) -> None:
    texts = [{"text": ""}, {"text": "a"}, {"text": "b"}]
    sources = [{"uri": _write(tmp_path / name, *texts)} for name in ("a.jsonl", "b.jsonl")]
    places = [row.where.rsplit("/", 1)[-1] for row in sample(open_sources(_dataset(*sources)))]
    assert places == ["a.jsonl:2", "a.jsonl:3", "b.jsonl:2", "b.jsonl:3"]
    many = _write(tmp_path / "many.jsonl", *[{"text": "t"}] * (SURVEYED + 9))
    assert len(sample(open_sources(_dataset({"uri": many})))) == SURVEYED
    long = _write(tmp_path / "long.jsonl", *[{"text": "t" * 700_000}] * 9)
    assert len(sample(open_sources(_dataset({"uri": long})))) == 2
