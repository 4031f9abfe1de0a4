"""What a platform puts around lines never reaches the tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_training.contract.dataset import SampleBy
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.files import File, find_files
from finetune_training.sources.formats import format_of, read
from finetune_training.sources.lines import lines


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
def test_a_file_from_windows_gives_the_rows_of_the_same_file_from_linux(
    tmp_path: Path, name: str, text: str, sample_by: SampleBy
) -> None:
    linux = _rows(_file(tmp_path / name, text.encode()), sample_by)
    assert linux
    for mark, end in (("\ufeff", "\n"), ("", "\r\n"), ("\ufeff", "\r\n")):
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
