"""Globs on a local folder: what they find, and what is said when they find nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.files import find_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a.jsonl",
        "b.jsonl",
        "c.csv",
        "_SUCCESS.jsonl",
        ".hidden.jsonl",
        "x/d.jsonl",
        "x/y/e.jsonl",
        "x/.git/f.jsonl",
        "z/d.jsonl",
        "odd names/ä #1 100%.jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("[!a].jsonl", ["b.jsonl"]),
        ("[ab].js?nl", ["a.jsonl", "b.jsonl"]),
        ("?/*.jsonl", ["x/d.jsonl", "z/d.jsonl"]),
        ("**/d.jsonl", ["x/d.jsonl", "z/d.jsonl"]),
        ("x/**/*.jsonl", ["x/d.jsonl", "x/y/e.jsonl"]),
        ("x/**", ["x/d.jsonl", "x/y/e.jsonl"]),
        ("**/y/*.jsonl", ["x/y/e.jsonl"]),
        ("_*.jsonl", ["_SUCCESS.jsonl"]),
        (".hidden.jsonl", [".hidden.jsonl"]),
        ("odd names/*.jsonl", ["odd names/ä #1 100%.jsonl"]),
        ("odd names/ä #1 100%.jsonl", ["odd names/ä #1 100%.jsonl"]),
    ],
)
def test_a_pattern_finds_its_files_in_the_order_of_their_names(folder: Path, pattern: str, expected: list[str]) -> None:
    found = find_files(f"{folder}/{pattern}", field="uri")
    assert [file.uri for file in found] == [f"{folder}/{name}" for name in expected]
    assert [file.size for file in found] == [len(name.encode()) for name in expected]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("train[1].jsonl", ["train[1].jsonl"]),
        ("train[12].jsonl", ["train1.jsonl", "train2.jsonl"]),
        ("what?.jsonl", ["what?.jsonl"]),
        ("what[?].jsonl", ["what?.jsonl"]),
        ("runs [1]/*.jsonl", ["runs [1]/a.jsonl", "runs [1]/train[1].jsonl"]),
        ("runs [13]/*.jsonl", ["runs 1/b.jsonl"]),
        ("runs [1]/train[1].jsonl", ["runs [1]/train[1].jsonl"]),
        ("**/train[1].jsonl", ["runs [1]/train[1].jsonl", "train1.jsonl", "train[1].jsonl"]),
    ],
)
def test_what_is_really_called_so_goes_before_what_the_pattern_describes(
    tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    files = ["train[1].jsonl", "train1.jsonl", "train2.jsonl", "what?.jsonl", "whats.jsonl"]
    for name in [*files, "runs [1]/a.jsonl", "runs [1]/train[1].jsonl", "runs 1/b.jsonl"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.uri for file in find_files(f"{tmp_path}/{pattern}", field="uri")] == [
        f"{tmp_path}/{name}" for name in expected
    ]


def test_a_relative_path_and_a_file_uri_name_the_same_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "x")
    assert find_files("../a.jsonl", field="uri") == find_files(f"file://{folder}/a.jsonl", field="uri")


def test_the_tag_of_a_file_changes_with_its_content(folder: Path) -> None:
    before = find_files(f"{folder}/a.jsonl", field="uri")[0]
    (folder / "a.jsonl").write_text("other 7")  # as long as before
    after = find_files(f"{folder}/a.jsonl", field="uri")[0]
    assert (before.size, before.e_tag) != (after.size, after.e_tag)
    assert before.e_tag


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("aa.jsonl", "a.jsonl"),
        ("x/dd.jsonl", "x/ there is: d.jsonl"),
        ("xx/d.jsonl", "x/"),
        ("*.parquet", "a.jsonl"),
        ("x", "It is a folder"),
    ],
)
def test_no_match_says_what_is_there_instead(folder: Path, pattern: str, says: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        find_files(f"{folder}/{pattern}", field="spec.dataset.train[0].uri")
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.DATA, "NoFile")
    assert failure.message.startswith(f"spec.dataset.train[0].uri: no file matches {folder}/{pattern}")
    assert says in failure.message + failure.remedy


def test_a_folder_says_the_pattern_that_fits_its_files(tmp_path: Path) -> None:
    for name in ("README.md", "a.parquet", "b.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(FinetuneError) as caught:
        find_files(str(tmp_path), field="uri")
    assert f"write {tmp_path}/*.parquet, or" in caught.value.failure.remedy


def test_looking_for_files_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError):
        find_files(f"{tmp_path}/typo/deeper/*.jsonl", field="uri")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_is_the_users_mistake() -> None:
    with pytest.raises(FinetuneError) as caught:
        find_files("ftp://host/a.jsonl", field="uri")
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.USER, "UnknownScheme")


def test_a_file_is_read_anywhere_and_in_order(folder: Path) -> None:
    (folder / "big.txt").write_bytes(bytes(range(256)) * 1000)
    file = find_files(f"{folder}/big.txt", field="uri")[0]
    raw = file.open()
    raw.seek(-6, 2)
    assert raw.read(100) == bytes(range(250, 256))
    assert raw.read(1) == b""
    raw.seek(256)
    assert (raw.read(3), raw.tell()) == (b"\x00\x01\x02", 259)
    with file.buffered() as stream:
        assert stream.read() == bytes(range(256)) * 1000


def test_a_file_that_vanishes_is_a_data_error(folder: Path) -> None:
    file = find_files(f"{folder}/a.jsonl", field="uri")[0]
    (folder / "a.jsonl").unlink()
    with pytest.raises(FinetuneError, match="has been deleted"):
        file.open().read(10)
