"""What sizes and headers of weights tell of a folder, without the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.model.headers import damaged, embeddings_of, incomplete
from finetune_training.model.model import load_model
from finetune_training.model.plain import load_plain
from tests.tiny import VOCABULARY, write_model

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def _cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def _headless(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def _empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def _pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(POINTER)


def _other(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"<html>404 Not Found</html>")


def _longer(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"more")


def _cut_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + b"\0" * 100)


def _shard_missing(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, rf"{WEIGHTS} is cut: it has [\d,]+ of [\d,]+ bytes"),
        (_headless, f"{WEIGHTS} is cut within its header"),
        (_empty, f"{WEIGHTS} is empty"),
        (_pointer, f"{WEIGHTS} is a pointer of Git LFS"),
        (_other, f"{WEIGHTS} does not begin as a safetensors file does"),
        (_longer, rf"{WEIGHTS} has [\d,]+ bytes, and its header speaks of [\d,]+"),
        (_cut_pickle, "pytorch_model.bin is cut"),
        (_shard_missing, f"{INDEX} names model-00002-of-00002.safetensors, which is not there"),
    ],
)
def test_a_file_that_is_not_whole_is_named(damage: Callable[[Path], None], said: str, folder: Path) -> None:
    assert damaged(folder) is incomplete(folder) is None
    damage(folder)
    spec = RunSpec.model_validate({"model": {"uri": "my/model"}, "dataset": {"train": [{"uri": "d"}]}})
    with pytest.raises(FinetuneError, match=f"my/model: {said}") as caught:
        load_model(folder, spec)
    assert (caught.value.failure.cls, caught.value.failure.reason) == ("User", "WeightsDamaged")
    with pytest.raises(FinetuneError, match=said):
        load_plain(folder)


def test_a_file_that_nothing_loads_may_be_what_it_is(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(POINTER)
    assert damaged(folder) is None


def test_the_weights_say_how_many_embeddings_there_are_before_the_config_does(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    assert embeddings_of(folder) == VOCABULARY
    (folder / WEIGHTS).unlink()
    assert embeddings_of(folder) == 7
    (folder / "config.json").unlink()
    assert embeddings_of(folder) is None
