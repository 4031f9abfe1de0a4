"""Rows reach the file that was asked for, whole and in order, whatever columns they have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_training.contract.dataset import Format
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.predict import completions
from finetune_training.predict.completions import open_output

ROWS: list[dict[str, Any]] = [
    {"prompt": "Wer reitet so spät?", "completion": "Der Vater", "tags": []},
    {"prompt": "a", "completion": 'b\n"c"', "score": 1, "tags": ["x"]},
    {"prompt": "a", "completion": "", "score": 2.5, "meta": {"k": "v"}},
]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(uri: Path | str) -> str:
    with pytest.raises(FinetuneError) as caught:
        open_output(str(uri))
    assert caught.value.failure.cls is FailureClass.USER
    assert caught.value.failure.remedy
    return caught.value.failure.reason


@pytest.mark.parametrize("name", ["out.jsonl", "new/folder/out.ndjson", "OUT.JSONL"])
def test_jsonl_has_a_line_for_each_row(tmp_path: Path, name: str) -> None:
    assert open_output(str(tmp_path / name)).write(ROWS) == 3
    assert lines(tmp_path / name) == ROWS
    assert "spät" in (tmp_path / name).read_text(encoding="utf-8")


def test_parquet_gets_the_schema_that_fits_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "_ROWS_AT_ONCE", 1)  # every row is a batch with a schema of its own
    assert open_output(str(tmp_path / "out.parquet")).write(ROWS) == 3
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("score").to_pylist() == [None, 1.0, 2.5]
    assert table.column("tags").to_pylist() == [[], ["x"], None]
    assert table.column("meta").to_pylist() == [None, None, {"k": "v"}]
    assert table.column("completion").to_pylist() == [row["completion"] for row in ROWS]


def test_texts_that_look_like_times_stay_texts_in_parquet(tmp_path: Path) -> None:
    open_output(str(tmp_path / "out.parquet")).write([{"prompt": "2024-01-01", "completion": "2024-01-02 10:00:00"}])
    assert pq.read_table(tmp_path / "out.parquet").schema.field("completion").type == pa.string()


def test_rows_of_no_common_type_are_a_data_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError) as caught:
        open_output(str(tmp_path / "out.parquet")).write([{"id": 1}, {"id": "one"}])
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.DATA, "ColumnsDiffer")
    assert "out.parquet" in caught.value.failure.message
    assert not (tmp_path / "out.parquet").exists()


def test_a_file_that_breaks_off_is_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from ROWS
        raise RuntimeError("the model is gone")

    (tmp_path / "out.jsonl").write_text("what was there before\n")
    with pytest.raises(RuntimeError):
        open_output(str(tmp_path / "out.jsonl")).write(broken())
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "what was there before\n"


@pytest.mark.parametrize("parts", [Format.JSONL, Format.PARQUET])
def test_a_folder_gets_parts_as_they_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Format) -> None:
    monkeypatch.setattr(completions, "ROWS_PER_PART", 2)
    seen: list[list[str]] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(5):
            yield {"id": number}
            seen.append(sorted(path.name for path in (tmp_path / "out").iterdir()))

    assert open_output(f"{tmp_path}/out/", parts=parts).write(rows()) == 5
    read = lines if parts is Format.JSONL else lambda path: pq.read_table(path).to_pylist()
    files = sorted((tmp_path / "out").iterdir())
    assert [[row["id"] for row in read(path)] for path in files] == [[0, 1], [2, 3], [4]]
    assert seen[2] == [files[0].name]  # before the third row was asked for


def test_no_rows_make_an_empty_file_and_no_part(tmp_path: Path) -> None:
    assert open_output(str(tmp_path / "out.jsonl")).write([]) == 0
    assert lines(tmp_path / "out.jsonl") == []
    assert open_output(str(tmp_path / "folder")).write([]) == 0
    assert list((tmp_path / "folder").iterdir()) == []


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    assert refused(tmp_path / "out.xlsx") == "OutputUnknown"
    assert refused("ftp://host/out.jsonl") == "UnknownScheme"
    (tmp_path / "file").write_text("in the way")
    assert refused(tmp_path / "file" / "out.jsonl") == "StoreUnwritable"
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "part-00000.parquet").touch()
    assert refused(tmp_path / "used") == "OutputExists"
