"""What names prepared data, and that finding it again is quick. How it is made: tests/integration/test_prepare.py."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_training.contract.dataset import LossOn
from finetune_training.contract.spec import RunSpec
from finetune_training.data.documents import Preparation
from finetune_training.data.prepare import _unused_keys, buckets_for, fingerprint, histogram, prepare
from finetune_training.data.render import Options
from finetune_training.data.shards import MANIFEST, DataManifest, Histogram, Shard, Statistics
from finetune_training.events.progress import Event, Warned
from finetune_training.model.tokenizer import digest, portable
from finetune_training.sources.sourcefiles import open_sources
from finetune_training.store.storage import Store
from tests.tiny import write_tokenizer

MANIFEST_OF = DataManifest(
    fingerprint="",
    max_length=64,
    train=[Shard("train-00000.arrow", 1, 2, 1, 3, "0" * 64)],
    validation=[],
    statistics=Statistics(1, {}, 0, 0, 2, 1, 0.5, Histogram([1, 65], [1])),
    prompts=["To be"],
)


def _spec(path: Path, **dataset: Any) -> RunSpec:
    fields = {"train": [{"uri": f"{path}/*.jsonl"}], "maxLength": 64, **dataset}
    return RunSpec.model_validate({"model": {"uri": "m"}, "dataset": fields, "training": {"seed": 1}})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}\n')
    return folder


def _name(spec: RunSpec, tokenizer: str = "t") -> str:
    return fingerprint(spec, open_sources(spec.dataset), tokenizer_digest=tokenizer)


def test_everything_that_decides_the_content_of_prepared_data_is_in_its_name(data: Path) -> None:
    before = _name(_spec(data))
    assert len(before) == 16
    changed = [
        _spec(data, maxLength=128),
        _spec(data, packing=False),
        _spec(data, lossOn="All"),
        _spec(data, chatTemplate="x"),
        _spec(data, kind="Text"),
        _spec(data, validation={"fraction": 0.1}),
    ]
    names = [before, _name(_spec(data), "other"), *map(_name, changed)]
    (data / "a.jsonl").write_text('{"text": "b"}\n')
    names.append(_name(_spec(data)))
    (data / "b.jsonl").write_text('{"text": "a"}\n')
    names.append(_name(_spec(data)))
    assert len(set(names)) == len(names)


def test_what_does_not_decide_the_content_of_prepared_data_is_not_in_its_name(data: Path) -> None:
    spec = _spec(data)
    other = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": 2, "learning_rate": 1e-3})})
    assert _name(spec) == _name(other)


def test_prepared_data_is_found_without_ray_torch_or_transformers(data: Path, tmp_path: Path) -> None:
    model, spec = write_tokenizer(tmp_path / "model"), _spec(data)
    name = _name(spec, digest(model))
    (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / name / MANIFEST).write_bytes(MANIFEST_OF.to_json())
    (tmp_path / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    script = f"""
import sys
from pathlib import Path
from finetune_training.data.prepare import prepare
from finetune_training.contract.dataset import LossOn
from finetune_training.contract.spec import RunSpec
from finetune_training.store.storage import Store
spec = RunSpec.model_validate_json(Path({str(tmp_path / "spec.json")!r}).read_text())
found = prepare(spec, store=Store({str(tmp_path / "runs")!r}), model_folder=Path({str(model)!r}), report=print)
print(found.prompts, [name for name in ("ray", "torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['To be'] []"
    began = time.perf_counter()
    assert prepare(spec, store=Store(str(tmp_path / "runs")), model_folder=model, report=print) == MANIFEST_OF
    assert time.perf_counter() - began < 0.5


def test_shards_are_as_many_as_the_sources_are_large(data: Path) -> None:
    [source] = open_sources(_spec(data).dataset)

    def buckets(*sizes: int, key: str = "a.jsonl") -> int:
        file = source.file.__class__(source.file.root, key, 0, "")
        sized = [file.__class__(file.root, file.key, size, "") for size in sizes]
        return buckets_for(
            [source.__class__(each, source.format, source.sample_by, source.shape, False) for each in sized]
        )

    assert buckets(1) == buckets(64 * 2**20) == 1
    assert buckets(64 * 2**20 + 1) == buckets(2**26, 1) == 2
    assert buckets(16 * 2**20 + 1, key="a.jsonl.gz") == 2


@given(st.integers(16, 1_048_576), st.data())
def test_the_histogram_counts_every_document_once(max_length: int, drawn: st.DataObject) -> None:
    lengths = drawn.draw(st.dictionaries(st.integers(1, max_length), st.integers(1, 100)))
    found = histogram(lengths, max_length)
    assert sum(found.counts) == sum(lengths.values())
    assert len(found.edges) == len(found.counts) + 1
    assert found.edges == sorted(set(found.edges))
    assert (found.edges[0], found.edges[-1]) == (1, max_length + 1)
    assert len(found.counts) <= 23
    for length, count in lengths.items():
        place = next(place for place, edge in enumerate(found.edges[1:]) if length < edge)
        assert found.counts[place] >= count


def test_a_manifest_survives_json() -> None:
    assert DataManifest.from_json(MANIFEST_OF.to_json()) == MANIFEST_OF
    assert json.loads(MANIFEST_OF.to_json())["statistics"]["lengths"] == {"edges": [1, 65], "counts": [1]}


def test_columns_that_nothing_uses_are_told_once_per_source_also_of_data_that_is_found(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "a", "weight": 0}\n')
    model, spec = write_tokenizer(tmp_path / "model"), _spec(tmp_path)
    store = Store(str(tmp_path / "runs"))
    store.child(_name(spec, digest(model))).put(MANIFEST, MANIFEST_OF.to_json())
    said: list[Event] = []
    prepare(spec, store=store, model_folder=model, report=said.append)
    assert [event.message for event in said if isinstance(event, Warned)] == [
        "spec.dataset.train[0]: nothing uses the columns 'weight'."
    ]


def test_keys_of_messages_that_the_template_does_not_name_are_told(tmp_path: Path) -> None:
    model = write_tokenizer(tmp_path / "model")
    thought = {"role": "assistant", "content": "a", "reasoning_content": "t"}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "q"}, thought]}))
    spec = _spec(tmp_path, chatTemplate="{% for m in messages %}{{ m.content }}{% endfor %}")
    options = Options(64, LossOn.ALL, spec.dataset.chat_template)
    tokenizer = portable(model, trust_remote_code=False)
    context = Preparation(tuple(open_sources(spec.dataset)), tokenizer, options, 1)
    assert _unused_keys(context) == [
        "spec.dataset.train[0]: the chat template does not use 'reasoning_content' of the messages."
    ]
