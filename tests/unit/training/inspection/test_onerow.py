"""Any row is found again: in the sources, in the prepared data, and there even when its source is gone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.jobfile import read_job
from finetune_training.contract.spec import Job
from finetune_training.data.render import render
from finetune_training.data.shards import IGNORE, MANIFEST, SCHEMA, DataManifest, Histogram, Statistics, write_shard
from finetune_training.inspection.inspection import options_of
from finetune_training.inspection.onerow import look_up
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.sources.lookup import find_rows
from finetune_training.sources.rows import identity
from finetune_training.sources.sourcefiles import open_sources
from finetune_training.store.located import located
from finetune_training.store.storage import open_store
from tests.cli import write_job, write_rows
from tests.tiny import write_tokenizer

FINGERPRINT = "0123456789abcdef"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def job(model: Path, tmp_path: Path) -> Job:
    rows = write_rows(tmp_path / "rows.jsonl", rows=5)
    return located(read_job(write_job(tmp_path, model=model, data=rows, checkpoint={"uri": str(tmp_path / "runs")})))


def prepare(job: Job, model: Path, line: int) -> str:
    """Prepared data as a run would have left it, of one row; the row's identity."""
    dataset = job.spec.dataset
    (found,) = find_rows(open_sources(dataset), str(line))
    assert found.row is not None
    tokenizer = load_tokenizer(model, trust_remote_code=False)
    (document,) = render([found.row], tokenizer, options_of(dataset))[0].documents
    row = identity(found.row)
    run = open_store(job.spec.checkpoint.uri).child(job.path)
    data = run.child("data", FINGERPRINT)
    data.probe()
    assert data.folder is not None
    sample = {
        "input_ids": [[7, 7, *document.input_ids]],
        "labels": [[IGNORE, 7, *document.labels]],
        "seq_lengths": [[2, len(document.input_ids)]],
        "row_ids": [[1, row - 2**64 if row >= 2**63 else row]],
    }
    shard = write_shard(pa.table(sample, SCHEMA), data.folder / "train-00000.arrow")
    statistics = Statistics(1, {}, 0, 0, 2, 1, 0.5, Histogram([1, 65], [1]))
    data.put(MANIFEST, DataManifest(FINGERPRINT, 64, [shard], [], statistics).to_json())
    resolved = {"model": {"revision": ""}, "data": {"fingerprint": FINGERPRINT}}
    run.put("resolved.json", json.dumps(resolved).encode())
    return f"{row:016x}"


def test_before_the_preparation_a_row_is_shown_from_its_source(job: Job, model: Path, tmp_path: Path) -> None:
    (shown,) = look_up(job, model, "rows.jsonl:3")
    assert shown.where == f"{tmp_path}/rows.jsonl:3"
    assert "".join(piece.text for piece in shown.pieces if piece.learnt) == "It is 4.<|im_end|>"
    assert shown.notes == ()


def test_after_it_a_row_says_where_it_was_put(job: Job, model: Path) -> None:
    wanted = prepare(job, model, 3)
    by_place, by_identity = look_up(job, model, "3")[0], look_up(job, model, wanted)[0]
    assert by_place == by_identity
    assert by_place.notes == ("prepared: train-00000.arrow, sample 0, document 2 of 2",)
    assert look_up(job, model, "4")[0].notes == ("not in the prepared data",)


@pytest.mark.parametrize("gone", ["the row", "the file"])
def test_what_the_sources_no_longer_have_is_shown_as_it_was_prepared(
    job: Job, model: Path, tmp_path: Path, gone: str
) -> None:
    wanted = prepare(job, model, 3)
    if gone == "the row":
        write_rows(tmp_path / "rows.jsonl", rows=2)
    else:
        os.remove(tmp_path / "rows.jsonl")
    (shown,) = look_up(job, model, wanted)
    assert shown.where == "train-00000.arrow, sample 0, document 2 of 2"
    assert shown.notes == ("no longer in the sources",)
    assert "".join(piece.text for piece in shown.pieces if piece.learnt) == "It is 4.<|im_end|>"


def test_a_row_that_is_nowhere_is_an_error_that_says_where_was_looked(job: Job, model: Path) -> None:
    with pytest.raises(FinetuneError) as error:
        look_up(job, model, "f" * 16)
    assert error.value.failure.reason == "NoSuchRow"
    assert "not in the sources" in error.value.failure.message
