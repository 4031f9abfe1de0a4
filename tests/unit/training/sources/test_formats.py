"""Every format gives its rows with their numbers, and says where it is broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.dataset import Format, SampleBy
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources import formats
from finetune_training.sources.files import File, find_files
from finetune_training.sources.formats import format_of, read


def _file(path: Path, content: str | bytes) -> File:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return find_files(str(path), field="uri")[0]


def _rows(file: File, sample_by: SampleBy = SampleBy.LINE, columns: tuple[str, ...] = ()) -> list[tuple[int, Any]]:
    format_ = format_of(file)
    assert format_ is not None
    return [(number, json.loads(row)) for number, row in read(file, format_, sample_by, columns)]


def _error(file: File) -> str:
    with pytest.raises(FinetuneError) as caught:
        _rows(file)
    assert caught.value.failure.cls is FailureClass.DATA
    return f"{caught.value.failure.reason}: {caught.value.failure.message}"


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.jsonl", Format.JSONL),
        ("a.JSON", Format.JSONL),
        ("a.ndjson.gz", Format.JSONL),
        ("a.tsv", Format.CSV),
        ("a.parquet", Format.PARQUET),
        ("data-00000-of-00001.arrow", Format.ARROW),
        ("a.md", Format.TEXT),
        ("a.bin", None),
    ],
)
def test_the_format_is_told_by_the_files_name(name: str, format_: Format | None) -> None:
    assert format_of(File("/", name, 0, "")) is format_


def test_jsonl_skips_blank_lines_but_counts_them(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.jsonl", '\ufeff{"a": 1}\r\n\n  \n{"a": "ü"}')
    assert _rows(file) == [(1, {"a": 1}), (4, {"a": "ü"})]


def test_gzipped_text_reads_as_if_it_were_not(tmp_path: Path) -> None:
    parts = [gzip.compress(b'{"a": 1}\n'), gzip.compress(b'{"a": 2}\n')]
    assert _rows(_file(tmp_path / "a.jsonl.gz", b"".join(parts))) == [(1, {"a": 1}), (2, {"a": 2})]


def test_broken_gzip_is_said_with_its_place(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % number for number in range(5000)))
    assert _error(_file(tmp_path / "a.jsonl.gz", whole[: len(whole) // 2])).startswith("BrokenGzip: ")


def test_a_json_array_gives_its_elements_with_their_lines(tmp_path: Path) -> None:
    rows = [{"a": "[1]", "b": [1, {"c": "]"}]}, {"a": 'x"],'}, {"a": ""}]
    assert _rows(_file(tmp_path / "a.json", json.dumps(rows))) == [(1, row) for row in rows]
    assert _rows(_file(tmp_path / "b.json", " " + json.dumps(rows, indent=2))) == [
        (2, rows[0]),
        (11, rows[1]),
        (14, rows[2]),
    ]
    assert _rows(_file(tmp_path / "c.json", "[]")) == []


def test_a_json_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_PIECE", 7)
    rows = [{"number": number, "text": "ä\n[]{}" * (number % 5)} for number in range(200)]
    file = _file(tmp_path / "a.json", json.dumps(rows, indent=1, ensure_ascii=False))
    assert [row for _, row in _rows(file)] == rows


@pytest.mark.parametrize(
    ("content", "line"), [('[\n{"a": 1},\n{"a": }\n]', 3), ('[\n{"a": 1}', 2), ('[{"a": 1}, oops]', 1)]
)
def test_a_broken_json_array_is_said_with_its_line(tmp_path: Path, content: str, line: int) -> None:
    assert _error(_file(tmp_path / "a.json", content)).startswith(f"BrokenJSON: {tmp_path}/a.json:{line}: not JSON: ")


@pytest.mark.parametrize("content", ['[{"a": 1}]\n[{"a": 2}]\n', '[{"a": 1}]  x', "[]\n{}"])
def test_what_follows_an_array_is_not_passed_over(tmp_path: Path, content: str) -> None:
    assert "something follows the array" in _error(_file(tmp_path / "a.jsonl", content))


def test_bytes_that_are_not_utf8_are_said_with_their_line(tmp_path: Path) -> None:
    assert f"NotUTF8: {tmp_path}/a.txt:2: not UTF-8 (byte 0xe9)" in _error(_file(tmp_path / "a.txt", b"one\ncaf\xe9\n"))
    assert "at line 2 or after it" in _error(_file(tmp_path / "a.json", b'[{"a": 1},\n{"a": "\xe9"}]'))


def test_csv_keeps_quoted_commas_and_line_ends(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.csv", '\ufeffprompt,completion\r\n"a, b","c\nd"\r\n\r\ne,"say ""hi"""\r\n')
    assert _rows(file) == [
        (2, {"prompt": "a, b", "completion": "c\nd"}),
        (5, {"prompt": "e", "completion": 'say "hi"'}),
    ]


def test_tsv_is_csv_with_tabs(tmp_path: Path) -> None:
    assert _rows(_file(tmp_path / "a.tsv", "a\tb\n1,2\t3\n")) == [(2, {"a": "1,2", "b": "3"})]


def test_csv_fields_may_be_long(tmp_path: Path) -> None:
    assert _rows(_file(tmp_path / "a.csv", "text\n" + "x" * 300_000)) == [(2, {"text": "x" * 300_000})]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2\n3\n", "a.csv:3: the row has 1 fields, the header has 2"),
        ("a,a\n1,2\n", "a.csv:1: the column 'a' is there twice"),
        ('a,b\n1,2\n"x"y,2\n', "a.csv:3: not CSV"),
        ('a,b\n1,2\n"x,2\n', "a.csv:3: not CSV"),
    ],
)
def test_broken_csv_is_said_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    message = _error(_file(tmp_path / "a.csv", content))
    assert message.startswith("BrokenCSV: ")
    assert says in message


def test_text_is_sampled_by_line_paragraph_or_document(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.txt", "\none\ntwo\r\n\n \nthree\n")
    text = [(number, row["text"]) for number, row in _rows(file)]
    assert text == [(1, ""), (2, "one"), (3, "two"), (4, ""), (5, " "), (6, "three")]
    assert _rows(file, SampleBy.PARAGRAPH) == [(2, {"text": "one\ntwo"}), (6, {"text": "three"})]
    assert _rows(file, SampleBy.DOCUMENT) == [(1, {"text": "\none\ntwo\n\n \nthree\n"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_an_empty_file_has_no_row(tmp_path: Path, name: str) -> None:
    for sample_by in SampleBy:
        assert _rows(_file(tmp_path / name, ""), sample_by) == []
