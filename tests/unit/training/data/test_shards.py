"""The prepared data as it lies in a store: the same on both sides, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.data.shards import SCHEMA, DataManifest, fetch_shards, write_shard
from finetune_training.events.progress import Step, as_record
from finetune_training.store.storage import Store
from tests.ranks import make_data


class Remote(Store):
    """A folder that is treated as a store of another machine: its files are downloaded."""

    folder = None


@pytest.fixture
def data(tmp_path: Path) -> tuple[DataManifest, Path]:
    manifest = make_data(tmp_path, samples=5, validation=2)
    return manifest, tmp_path / "data" / manifest.fingerprint


def test_a_manifest_comes_back_as_it_was_with_the_names_of_the_api(data: tuple[DataManifest, Path]) -> None:
    manifest, _ = data
    text = manifest.to_json()
    assert DataManifest.from_json(text) == manifest
    body = json.loads(text)
    assert body["train"][0]["supervisedTokens"] == manifest.train[0].supervised_tokens
    assert body["statistics"]["usefulTokenRatio"] == manifest.statistics.useful_token_ratio


def test_a_shard_counts_what_is_in_it(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, -100], "seq_lengths": [3], "row_ids": [1]}]
    shard = write_shard(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "s.arrow")
    assert (shard.samples, shard.tokens, shard.supervised_tokens) == (1, 3, 1)


def test_shards_of_a_local_store_are_read_where_they_are(data: tuple[DataManifest, Path], tmp_path: Path) -> None:
    manifest, folder = data
    assert fetch_shards(Store(str(folder)), manifest.train, tmp_path / "cache") == [folder / manifest.train[0].file]


def test_shards_of_another_store_are_downloaded_once_and_checked(
    data: tuple[DataManifest, Path], tmp_path: Path
) -> None:
    manifest, folder = data
    (path,) = fetch_shards(Remote(str(folder)), manifest.train, tmp_path / "cache")
    assert path.read_bytes() == (folder / manifest.train[0].file).read_bytes()
    (folder / manifest.train[0].file).unlink()
    assert fetch_shards(Remote(str(folder)), manifest.train, tmp_path / "cache") == [path]


def test_a_damaged_shard_is_not_used(data: tuple[DataManifest, Path], tmp_path: Path) -> None:
    manifest, folder = data
    path = folder / manifest.train[0].file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FinetuneError) as raised:
        fetch_shards(Remote(str(folder)), manifest.train, tmp_path / "cache")
    assert (raised.value.failure.cls, raised.value.failure.reason) == (FailureClass.INFRASTRUCTURE, "DataDamaged")


def test_an_event_is_recorded_with_the_names_of_the_api() -> None:
    step = Step(1, 2, 0.5, 3.0, 1e-3, None, 10, 8, 2.0, 5.0, 2.0)
    record = as_record(step)
    assert (record["event"], record["totalSteps"], record["tokensPerSecond"]) == ("Step", 2, 5.0)
