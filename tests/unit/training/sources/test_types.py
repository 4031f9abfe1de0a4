"""Whatever type a column has that nobody wants, it ends no run; where it is wanted, it is read or named."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_training.contract.dataset import DatasetSpec
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.rows import Messages
from finetune_training.sources.sourcefiles import open_sources

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def _map(key: Any, kind: pa.DataType) -> pa.Array:
    return pa.array([[(key, 1)], []], pa.map_(kind, pa.int64()))


def _bad_text() -> pa.Array:
    ends = pa.py_buffer(b"".join(end.to_bytes(4, "little") for end in (0, 1, 2)))
    return pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"\xff\xfe")])


def _extended(kind: Any, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


TYPES: dict[str, pa.Array] = {
    "a date after 9999": pa.array([2**30, 0], pa.int32()).view(pa.date32()),
    "milliseconds after 9999": pa.array([86_400_000 * 10**8, 0], pa.int64()).view(pa.date64()),
    "a time after 9999": pa.array([2**45, 1]).cast(pa.timestamp("s")),
    "nanoseconds": pa.array([1, 1]).cast(pa.timestamp("ns")),
    "a time in no zone": pa.array([1, 1]).cast(pa.timestamp("s", tz="Mars/Olympus")),
    "a duration": pa.array([2**62, 1]).cast(pa.duration("s")),
    "an interval": pa.array([(1, 2, 3)] * 2, pa.month_day_nano_interval()),
    "a time of day": pa.array([1, 1], pa.int64()).view(pa.time64("ns")),
    "a decimal": pa.array([1, 2]).cast(pa.decimal128(30, 2)),
    "a map of dates": _map(datetime.date(2020, 1, 1), pa.date32()),
    "a map of numbers": _map(1, pa.int64()),
    "a map of bytes": _map(b"\xff", pa.binary()),
    "a map of structs": _map({"a": 1}, pa.struct([("a", pa.int64())])),
    "bytes": pa.array([b"\x89PNG", b"x"]),
    "bytes of one length": pa.array([b"\xff\xff", b"xx"], pa.binary(2)),
    "a view of bytes": pa.array([b"\xff", b"x"], pa.binary_view()),
    "text that is no UTF-8": _bad_text(),
    "no number": pa.array([float("nan"), float("inf")]),
    "half a float": pa.array([1.0, 2.0]).cast(pa.float16()),
    "nothing": pa.nulls(2),
    "a dictionary": pa.array(["a", "b"]).dictionary_encode(),
    "a view of text": pa.array(["a", "b"], pa.string_view()),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["x"])),
    "a key twice": pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([1, 2])], names=["a", "a"]),
    "a union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    "a UUID": _extended(pa.uuid(), [b"\xff" * 16, b"x" * 16]),
    "JSON": _extended(pa.json_(), ["1", "{}"]),
    "a tensor": _extended(pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2], [3, 4]]),
    "a stranger": _extended(pa.opaque(pa.binary(), "x", "y"), [b"\xff", b"x"]),
}

ARROWS_OWN = ("a time after 9999", "an interval", "runs", "a union")
"""Types that Parquet has not."""
CASES = [
    (kind, name) for kind in TYPES for name in ("a.parquet", "a.arrow") if name == "a.arrow" or kind not in ARROWS_OWN
]


def _open(path: Path, table: pa.Table, **dataset: Any) -> Any:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    return open_sources(DatasetSpec.model_validate({"train": [{"uri": str(path)}], **dataset}))[0]


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("column", ["born", "content", "label"])
def test_a_column_of_any_type_that_nobody_wants_is_named_and_left(
    tmp_path: Path, kind: str, name: str, column: str
) -> None:
    file = _open(tmp_path / name, pa.table({"messages": [CHAT, CHAT], column: TYPES[kind]}))
    assert [file.convert(*row) for row in file.rows()] == [
        Messages(CHAT, f"{tmp_path}/{name}, row {number}") for number in (1, 2)
    ]
    assert file.survey.ignored == (column,)


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("column", ["text", "system", "tools"])
def test_a_column_of_any_type_that_is_wanted_is_read_or_told_with_its_place(
    tmp_path: Path, kind: str, name: str, column: str
) -> None:
    others = {} if column == "text" else {"messages": [CHAT, CHAT]}
    try:
        file = _open(tmp_path / name, pa.table({**others, column: TYPES[kind]}))
        found = [file.convert(*row) for row in file.rows()]
    except FinetuneError as error:
        failure = error.failure
        assert failure.cls is FailureClass.DATA
        assert failure.message.startswith(
            (f"{tmp_path}/{name}, row 1: {column}", f"{tmp_path}/{name}, row 1: not UTF-8")
        )
        assert failure.remedy
    else:
        assert len(found) == 2


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_wanted_column_that_is_there_twice_is_refused_and_another_is_not(tmp_path: Path, name: str) -> None:
    texts, more = pa.array(["a", "b"]), pa.array([1, 2])
    file = _open(tmp_path / name, pa.Table.from_arrays([texts, more, more], names=["text", "n", "n"]))
    assert file.survey.ignored == ("n",)
    with pytest.raises(FinetuneError, match="the column 'text' is there twice") as caught:
        _open(tmp_path / f"b{name}", pa.Table.from_arrays([texts, texts], names=["text", "text"]))
    assert caught.value.failure.cls is FailureClass.DATA


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_without_any_known_column_lists_what_it_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(FinetuneError, match=r"row 1: no column is what it should be.*there are 'n', 'born'"):
        _open(tmp_path / name, pa.table({"n": [1, 2], "born": TYPES["a date after 9999"]}))
