"""Folders that `datasets` has saved: their rows are found, what describes them is no row."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from finetune_training.contract.dataset import DatasetSpec, Format
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.files import find_files
from finetune_training.sources.rows import Text
from finetune_training.sources.sourcefiles import open_sources


@pytest.fixture
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"row {number}" for number in range(5)]})


def _names(uri: Path | str) -> list[str]:
    return [Path(file.key).name for file in find_files(str(uri), field="spec.dataset.train[0].uri")]


def _failure(uri: Path) -> str:
    with pytest.raises(FinetuneError) as caught:
        _names(uri)
    failure = caught.value.failure
    assert failure.cls is FailureClass.DATA
    assert failure.message.startswith("spec.dataset.train[0].uri: ")
    return f"{failure.reason}: {failure.message} {failure.remedy}"


def test_a_saved_set_is_read_in_its_own_order(tmp_path: Path, rows: datasets.Dataset) -> None:
    rows.save_to_disk(tmp_path / "saved", num_shards=2)
    sources = open_sources(DatasetSpec.model_validate({"train": [{"uri": f"{tmp_path}/saved/"}]}))
    assert [source.format for source in sources] == [Format.ARROW] * 2
    read = [(source, number, text) for source in sources for number, text in source.rows()]
    assert [source.convert(number, text) for source, number, text in read] == [
        Text(f"row {row}", f"{tmp_path}/saved/data-0000{row // 3}-of-00002.arrow, row {row % 3 + 1}")
        for row in range(5)
    ]


def test_a_set_with_splits_says_which_there_are(tmp_path: Path, rows: datasets.Dataset) -> None:
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    said = _failure(tmp_path / "saved")
    assert "SplitMissing" in said
    assert "the splits train, test" in said
    assert f"Write {tmp_path}/saved/train." in said
    assert _names(tmp_path / "saved" / "test") == ["data-00000-of-00001.arrow"]


def test_what_describes_a_set_is_no_row_of_it(tmp_path: Path, rows: datasets.Dataset) -> None:
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    assert _names(tmp_path / "saved/train/*") == ["data-00000-of-00001.arrow"]
    assert _names(tmp_path / "saved/**") == ["data-00000-of-00001.arrow"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.json").write_text("[]")
    assert _names(tmp_path / "other/*") == ["state.json"]
    assert _names(tmp_path / "saved/train/state.json") == ["state.json"]


def test_a_set_that_is_not_whole_is_said(tmp_path: Path, rows: datasets.Dataset) -> None:
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    assert "data-00000-of-00001.arrow is missing" in _failure(tmp_path / "saved")


def test_a_choice_of_rows_that_only_datasets_can_make_is_refused(tmp_path: Path, rows: datasets.Dataset) -> None:
    rows.save_to_disk(tmp_path / "saved")
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    (tmp_path / "saved" / "state.json").write_text(json.dumps({**state, "_indices_files": [{"filename": "i.arrow"}]}))
    assert "SavedWithIndices" in _failure(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    assert "BrokenJSON" in _failure(tmp_path / "saved")
