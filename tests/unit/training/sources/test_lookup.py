"""A row is found again by what an error, a report or a person says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.dataset import DatasetSpec
from finetune_training.contract.failure import FinetuneError
from finetune_training.sources.lookup import find_rows, is_identity
from finetune_training.sources.rows import Text, identity
from finetune_training.sources.sourcefiles import SourceFile, open_sources


def files(folder: Path, *uris: str, **source: Any) -> list[SourceFile]:
    train = [{"uri": f"{folder}/{uri}", **source} for uri in uris]
    return open_sources(DatasetSpec.model_validate({"train": train}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.jsonl", "two.jsonl"):
        rows = [json.dumps({"text": f"{name} {number}"}) for number in range(1, 4)]
        (tmp_path / name).write_text("\n".join([rows[0], "", *rows[1:]]))
    return tmp_path


@pytest.mark.parametrize("where", ["two.jsonl:3", "{}/two.jsonl:3", "./two.jsonl:3"])
def test_a_place_is_found_as_an_error_writes_it_or_by_the_end_of_its_path(folder: Path, where: str) -> None:
    (found,) = find_rows(files(folder, "*.jsonl"), where.format(folder))
    assert found.row == Text("two.jsonl 2", f"{folder}/two.jsonl:3")
    assert found.where == f"{folder}/two.jsonl:3"


def test_a_number_is_enough_where_there_is_one_file(folder: Path) -> None:
    (found,) = find_rows(files(folder, "one.jsonl"), "4")
    assert isinstance(found.row, Text)
    assert found.row.text == "one.jsonl 3"


def test_a_row_of_a_text_is_found_by_each_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a\nb\n\nc\nd\n")
    (found,) = find_rows(files(tmp_path, "t.txt", sampleBy="Paragraph"), "t.txt:5")
    assert (found.number, found.row) == (4, Text("c\nd", f"{tmp_path}/t.txt:4"))


def test_all_rows_of_a_line_of_a_json_array_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": "b"},\n{"text": "c"}]')
    assert [found.number for found in find_rows(files(tmp_path, "a.json"), "1")] == [1, 1]


def test_an_identity_finds_the_row_wherever_it_stands(folder: Path) -> None:
    wanted = f"{identity(Text('two.jsonl 3', '')):016x}"
    assert is_identity(wanted)
    (found,) = find_rows(files(folder, "*.jsonl"), wanted)
    assert found.where == f"{folder}/two.jsonl:4"
    assert find_rows(files(folder, "*.jsonl"), "0" * 16) == []


@pytest.mark.parametrize(
    ("wanted", "reason", "says"),
    [
        ("4", "RowUnclear", "2 files have a row 4"),
        ("three.jsonl:1", "RowUnclear", "No source has a file three.jsonl"),
        ("one.jsonl:9", "NoSuchRow", "one.jsonl:9"),
        ("one.jsonl:2", "NoSuchRow", "one.jsonl:2"),
        ("the third", "RowUnclear", "neither a row's place nor its identity"),
    ],
)
def test_what_cannot_be_found_is_said_with_what_could_be(folder: Path, wanted: str, reason: str, says: str) -> None:
    with pytest.raises(FinetuneError) as error:
        find_rows(files(folder, "*.jsonl"), wanted)
    assert (error.value.failure.cls, error.value.failure.reason) == ("User", reason)
    assert says in error.value.failure.message
    assert error.value.failure.remedy
