"""What a platform puts around lines never reaches the tokens."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import ClassVar

import pytest

from finetune_training.contract.dataset import SampleBy
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.files import File, find_files
from finetune_training.sources.formats import format_of, read
from finetune_training.sources.lines import _split, lines


def _file(path: Path, content: bytes) -> File:
    path.write_bytes(content)
    return find_files(str(path), field="uri")[0]


def _rows(file: File, sample_by: SampleBy) -> list[object]:
    format_ = format_of(file)
    assert format_ is not None
    return [json.loads(row) for _, row in read(file, format_, sample_by)]


@pytest.mark.parametrize("sample_by", SampleBy)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "one\ntwo\n\n three \n\n"),
        ("a.txt", "one\n\nno end"),
        ("a.csv", 'prompt,completion\n"a, b","c\nd"\n\ne,f\n'),
        ("a.tsv", "text\tn\none\t1\n"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n'),
        ("a.json", '[\n{"text": "a"},\n{"text": "b"}\n]\n'),
    ],
)
def test_a_file_from_windows_or_an_old_mac_gives_the_rows_of_the_same_file_from_linux(
    tmp_path: Path, name: str, text: str, sample_by: SampleBy
) -> None:
    linux = _rows(_file(tmp_path / name, text.encode()), sample_by)
    assert linux
    ends = ("\n", "\r\n", "\r", "\r\r\n")
    for mark, end in ((mark, end) for mark in ("", "\ufeff") for end in ends):
        windows = mark + text.replace("\n", end)
        assert _rows(_file(tmp_path / name, windows.encode()), sample_by) == linux, (mark, end)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_another_encoding_is_never_guessed_at(tmp_path: Path, encoding: str, name: str) -> None:
    file = _file(tmp_path / name, 'text\n{"text": "caf\u00e9"}\n'.encode(encoding))
    with pytest.raises(FinetuneError) as caught:
        list(lines(file))
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.DATA, "NotUTF8")
    assert failure.message.startswith(f"{file.uri}:")
    assert ("UTF-16" in failure.message) == encoding.startswith("utf-16")


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 2**20])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines_end_alike_wherever_a_file_is_cut_into_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, piece: int
) -> None:
    monkeypatch.setattr("finetune_training.sources.lines._PIECE", piece)
    content = b"a\rb\r\nc\nd\r\r\ne\n\rf\r\n\r\n\xc3\xa9\r"
    file = _file(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    texts = ["a", "b", "c", "d", "e", "", "f", "", "\u00e9"]
    assert list(lines(file)) == [(number, f"{text}\n") for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize("text", ["x" * 3_000_000, "\r" * 300_000, "x\r" * 300_000, "\r\n" * 300_000])
def test_a_long_line_and_many_short_ones_are_read_in_a_moment(tmp_path: Path, text: str) -> None:
    found = list(lines(_file(tmp_path / "a.txt", text.encode())))
    assert len(found) == max(1, text.replace("\r\n", "\n").count("\r") + text.count("\n"))
    assert not any("\r" in line for _, line in found)


def test_a_long_line_is_not_copied_again_with_every_piece_of_it(tmp_path: Path) -> None:
    """A gzipped file gives some kilobytes at a time to who does not ask for more."""

    class Counted(gzip.GzipFile):
        pieces: ClassVar[list[int]] = []

        def read(self, size: int | None = -1) -> bytes:
            return self._noted(super().read(size))

        def read1(self, size: int = -1) -> bytes:
            return self._noted(super().read1(size))

        def _noted(self, piece: bytes) -> bytes:
            self.pieces.append(len(piece))
            return piece

    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(random.Random(0).randbytes(12_000_000).hex().encode()))
    with Counted(path) as stream:
        (line,) = _split(stream)
    assert len(line) == 24_000_000
    assert len(Counted.pieces) < 10, Counted.pieces


def test_a_line_that_is_not_utf8_has_the_number_that_editors_show(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=r"a\.txt:3: not UTF-8"):
        list(lines(_file(tmp_path / "a.txt", b"one\rtwo\r\n\xe9\r")))
