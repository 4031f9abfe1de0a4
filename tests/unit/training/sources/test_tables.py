"""Files of columns give their rows as they were before they became a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from finetune_training.contract.dataset import SampleBy
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.files import File, find_files
from finetune_training.sources.formats import format_of, read


def _file(path: Path, content: bytes) -> File:
    path.write_bytes(content)
    return find_files(str(path), field="uri")[0]


def _rows(file: File, columns: tuple[str, ...] = ()) -> list[tuple[int, Any]]:
    format_ = format_of(file)
    assert format_ is not None
    return [(number, json.loads(row)) for number, row in read(file, format_, SampleBy.LINE, columns)]


def _error(file: File, columns: tuple[str, ...] = ()) -> str:
    with pytest.raises(FinetuneError) as caught:
        _rows(file, columns)
    assert caught.value.failure.cls is FailureClass.DATA
    return f"{caught.value.failure.reason}: {caught.value.failure.message}"


def _parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=300)


def _stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def _arrow_file(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def _feather(path: Path, table: pa.Table) -> None:
    pyarrow.feather.write_feather(table, str(path), chunksize=300)


WRITERS = {
    "a.parquet": _parquet,
    "stream.arrow": _stream,
    "file.arrow": _arrow_file,
    "a.feather": _feather,
}


def _write(folder: Path, name: str, table: pa.Table) -> File:
    WRITERS[name](folder / name, table)
    return find_files(str(folder / name), field="uri")[0]


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_gives_rows_of_any_type_and_only_the_wanted_columns(tmp_path: Path, name: str) -> None:
    messages = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b", "name": "n"}]]
    file = _write(tmp_path, name, pa.table({"messages": messages, "text": [b"\xc3\xa9", None], "n": [1, 2]}))
    assert _rows(file, columns=("text",)) == [(1, {"text": "é"}), (2, {"text": None})]
    assert _rows(file, columns=("missing",))[1][1].keys() == {"messages", "text", "n"}
    assert _rows(file)[1][1]["messages"] == [{"role": "user", "content": "b", "name": "n"}]


@pytest.mark.parametrize("name", WRITERS)
def test_numbers_go_on_across_groups_of_rows(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path, name, pa.table({"n": list(range(1000))}))
    assert _rows(file) == [(n + 1, {"n": n}) for n in range(1000)]


@pytest.mark.parametrize("name", WRITERS)
def test_no_row_has_the_keys_of_another_one_and_a_map_is_an_object(tmp_path: Path, name: str) -> None:
    calls = [[{"function": {"name": "f", "arguments": {"a": 1}}}], [{"function": {"arguments": {"b": {"c": ["d"]}}}}]]
    pairs = pa.array([[("x", 1), ("y", None)], []], pa.map_(pa.string(), pa.int64()))
    file = _write(tmp_path, name, pa.table({"calls": calls, "empty": [None, "e"], "map": pairs}))
    assert [row for _, row in _rows(file)] == [
        {"calls": calls[0], "empty": None, "map": {"x": 1}},
        {"calls": calls[1], "empty": "e", "map": {}},
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_bytes_that_are_no_text_are_said_where_they_are_wanted(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path, name, pa.table({"text": ["a", "b"], "image": [b"\x89PNG", b"\x89PNG"]}))
    assert _rows(file, columns=("text",))[1] == (2, {"text": "b"})
    assert _rows(file)[1][1]["text"] == "b"
    assert _error(file, columns=("image",)) == f"NotUTF8: {file.uri}, row 1: not UTF-8 (byte 0x89)."


def test_broken_parquet_is_a_data_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [str(n) for n in range(5000)]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    assert _error(_file(tmp_path / "b.parquet", whole[:-20])).startswith(f"BrokenParquet: {tmp_path}/b.parquet: ")
    damaged = whole[:200] + bytes(2000) + whole[2200:]
    assert _error(_file(tmp_path / "c.parquet", damaged)).startswith(f"BrokenParquet: {tmp_path}/c.parquet: ")


@pytest.mark.parametrize("name", ["stream.arrow", "file.arrow"])
def test_broken_arrow_is_a_data_error(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path, name, pa.table({"text": [str(n) for n in range(5000)]}))
    whole = (tmp_path / name).read_bytes()
    message = _error(_file(tmp_path / name, whole[: len(whole) // 2]))
    assert message.startswith(f"BrokenArrow: {file.uri}: broken Arrow")
    assert _error(_file(tmp_path / name, b"no arrow at all")).startswith(f"BrokenArrow: {file.uri}: broken Arrow")
