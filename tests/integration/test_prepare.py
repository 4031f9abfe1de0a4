"""Data is prepared by a real Ray, from local files and from a real S3 server, into real stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from finetune_training.contract.dataset import LossOn
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.data import pipeline, prepare
from finetune_training.data.documents import Preparation, summary_of
from finetune_training.data.render import Options
from finetune_training.data.shards import DataManifest, Shard, fetch_shards
from finetune_training.events.progress import Event, Stage, StageStarted, Warned
from finetune_training.model.tokenizer import load_tokenizer, portable
from finetune_training.sources.sourcefiles import open_sources
from finetune_training.store.storage import Store
from tests.tiny import write_tokenizer

LINES = [
    "Shall I compare thee to a summer's day?",
    "Thou art more lovely and more temperate:",
    "Rough winds do shake the darling buds of May,",
    "And summer's lease hath all too short a date:",
]


pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("model"))


def _spec(*uris: str, **dataset: Any) -> RunSpec:
    fields = {"train": [{"uri": uri} for uri in uris], "maxLength": 64, **dataset}
    return RunSpec.model_validate({"model": {"uri": "m"}, "dataset": fields})


def _prepare(spec: RunSpec, store: Store, model: Path) -> tuple[DataManifest, list[Event]]:
    events: list[Event] = []
    return prepare.prepare(spec, store=store, model_folder=model, report=events.append), events


def _write_texts(path: Path, count: int) -> str:
    rows = [json.dumps({"text": f"{LINES[number % 4]} ({number})", "id": number}) for number in range(count)]
    path.write_text("\n".join(rows))
    return str(path)


def _documents(store: Store, manifest: DataManifest, shards: list[Shard], cache: Path) -> list[tuple[int, list[int]]]:
    """(row id, tokens) of each document, sorted."""
    found = []
    for path in fetch_shards(store.child(manifest.fingerprint), shards, cache):
        with pa.ipc.open_stream(path) as stream:
            for sample in stream.read_all().to_pylist():
                start = 0
                for row_id, length in zip(sample["row_ids"], sample["seq_lengths"], strict=True):
                    found.append((row_id, sample["input_ids"][start : start + length]))
                    start += length
    return sorted(found)


def _bytes(store: Store, manifest: DataManifest) -> dict[str, bytes | None]:
    folder = store.child(manifest.fingerprint)
    return {entry.key: folder.get(entry.key) for entry in folder.entries()}


def test_every_row_becomes_tokens_once_and_a_second_run_finds_them(tmp_path: Path, model: Path) -> None:
    spec, store = _spec(_write_texts(tmp_path / "a.jsonl", 300)), Store(str(tmp_path / "runs"))
    manifest, events = _prepare(spec, store, model)
    tokenizer = load_tokenizer(model, trust_remote_code=False)
    train = _documents(store, manifest, manifest.train, tmp_path)
    held_out = _documents(store, manifest, manifest.validation, tmp_path)
    texts = sorted(tokenizer.decode(ids).removesuffix("<|endoftext|>") for _, ids in train + held_out)
    assert texts == sorted(f"{LINES[number % 4]} ({number})" for number in range(300))
    assert 1 <= len(held_out) <= 20
    assert not {row_id for row_id, _ in train} & {row_id for row_id, _ in held_out}
    statistics = manifest.statistics
    assert (statistics.rows, statistics.dropped, statistics.truncated, statistics.split) == (300, {}, 0, 0)
    assert statistics.tokens == sum(len(ids) for _, ids in train + held_out)
    assert statistics.supervised_tokens == statistics.tokens - 300
    assert statistics.useful_token_ratio == sum(len(ids) for _, ids in train) / (manifest.train_samples * 64)
    assert sum(statistics.lengths.counts) == 300
    assert 1 <= len(manifest.prompts) <= 2
    assert all(any(text.startswith(prompt) for text in texts) for prompt in manifest.prompts)
    assert not manifest.chat
    warned, started = events
    assert isinstance(warned, Warned)
    assert warned.message == "spec.dataset.train[0]: nothing uses the columns 'id'."
    assert isinstance(started, StageStarted)
    assert started.stage is Stage.PREPARING
    again, events = _prepare(spec, store, model)
    assert again == manifest
    assert [event.message for event in events if isinstance(event, Warned)] == [warned.message]  # with every run
    assert len(events) == 1


def test_two_runs_give_the_same_bytes(tmp_path: Path, model: Path) -> None:
    for number in range(5):
        _write_texts(tmp_path / f"{number}.jsonl", 2500 if number == 2 else 100 + number)
    stores = [Store(str(tmp_path / name)) for name in ("one", "two")]
    manifests = [_prepare(_spec(f"{tmp_path}/*.jsonl"), store, model)[0] for store in stores]
    first, second = (_bytes(*each) for each in zip(stores, manifests, strict=True))
    assert first.keys() == {"train-00000.arrow", "validation-00000.arrow", "manifest.json"}
    assert first == second


def test_many_buckets_hold_the_same_documents_as_one(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(_write_texts(tmp_path / "a.jsonl", 600), validation={"fraction": 0.3})
    stores = [Store(str(tmp_path / name)) for name in ("one", "many", "again")]
    one, _ = _prepare(spec, stores[0], model)
    monkeypatch.setattr(prepare, "_BUCKET_BYTES", 15_000)
    many, _ = _prepare(spec, stores[1], model)
    again, _ = _prepare(spec, stores[2], model)
    assert many.train_samples >= one.train_samples
    assert len(many.train) == 3
    assert many.prompts == one.prompts
    for split in ("train", "validation"):
        expected = _documents(stores[0], one, getattr(one, split), tmp_path / "1")
        assert _documents(stores[1], many, getattr(many, split), tmp_path / "2") == expected
    assert _bytes(stores[1], many) == _bytes(stores[2], again)


def test_sources_and_shards_may_be_in_s3(tmp_path: Path, model: Path, s3_prefix: str) -> None:
    source = Store(f"{s3_prefix}/plays")
    for number in range(3):
        path = tmp_path / f"{number}.jsonl"
        _write_texts(path, 40 + number)
        source.upload(path, f"act {number}/scene.jsonl")
    table = pa.table({"text": LINES * 5, "unused": [0] * 20})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    source.upload(tmp_path / "a.parquet", "a.parquet")
    spec = _spec(f"{s3_prefix}/plays/**/*.jsonl", f"{s3_prefix}/plays/*.parquet")
    store = Store(f"{s3_prefix}/runs/x/data")
    manifest, _ = _prepare(spec, store, model)
    assert manifest.statistics.rows == 40 + 41 + 42 + 20
    found = _documents(store, manifest, [*manifest.train, *manifest.validation], tmp_path / "cache")
    assert len(found) == manifest.statistics.rows
    again, events = _prepare(spec, store, model)
    assert again == manifest
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "spec.dataset.train[0]: nothing uses the columns 'id'.",
        "spec.dataset.train[1]: nothing uses the columns 'unused'.",
    ]
    source.upload(tmp_path / "0.jsonl", "act 3/scene.jsonl")
    assert _prepare(spec, store, model)[0].statistics.rows == manifest.statistics.rows + 40


@pytest.mark.parametrize(
    ("key", "reason", "says"),
    [
        ("plays/act9/*.jsonl", "NoFile", "/plays/ there is: act 1/"),
        ("plays/", "NoFile", "It is a folder"),
        ("s3://no-such-bucket/*.jsonl", "NoSuchBucket", "there is no such bucket"),
    ],
)
def test_what_is_not_in_s3_is_said(
    tmp_path: Path, model: Path, s3_prefix: str, key: str, reason: str, says: str
) -> None:
    _write_texts(tmp_path / "a.jsonl", 1)
    Store(f"{s3_prefix}/plays").upload(tmp_path / "a.jsonl", "act 1/scene.jsonl")
    uri = key if key.startswith("s3://") else f"{s3_prefix}/{key}"
    with pytest.raises(FinetuneError) as caught:
        _prepare(_spec(uri), Store(str(tmp_path / "runs")), model)
    failure = caught.value.failure
    assert failure.reason == reason
    assert says in failure.message + failure.remedy


def test_one_small_parquet_file_is_tokenised_by_several_tasks(tmp_path: Path, model: Path) -> None:
    pq.write_table(
        pa.table({"text": [f"{line} {number}" for number in range(2500) for line in LINES]}), tmp_path / "a.parquet"
    )
    files = open_sources(_spec(f"{tmp_path}/a.parquet").dataset)
    context = Preparation(tuple(files), portable(model, trust_remote_code=False), Options(64, LossOn.ASSISTANT), 1)
    with pipeline.settings():
        documents = pipeline.tokenized(context)
        blocks = [ray.get(block) for block in documents.to_arrow_refs()]
    rows = [summary_of(block).rows for block in blocks]
    assert sum(rows) == 10_000
    assert len(rows) >= 5
    assert max(rows) <= pipeline.ROWS_PER_BLOCK


def test_conversations_learn_the_assistants_turns_only(tmp_path: Path, model: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": LINES[number % 4]}]}
        for number in range(50)
    ]
    chats += [{"messages": []}, {"messages": [{"role": "user", "content": "nobody answers"}]}]
    (tmp_path / "a.json").write_text(json.dumps(chats))
    manifest, _ = _prepare(_spec(f"{tmp_path}/a.json"), Store(str(tmp_path / "runs")), model)
    assert manifest.chat
    assert manifest.statistics.dropped == {"empty": 1, "noSupervisedToken": 1}
    assert manifest.statistics.supervised_tokens < manifest.statistics.tokens
    for prompt in manifest.prompts:
        assert prompt.startswith("<|im_start|>user\n")
        assert prompt.endswith("?<|im_end|>\n<|im_start|>assistant\n")


def test_a_validation_source_is_held_out_whole(tmp_path: Path, model: Path) -> None:
    spec = _spec(
        _write_texts(tmp_path / "train.jsonl", 50), validation={"uri": _write_texts(tmp_path / "held.jsonl", 7)}
    )
    store = Store(str(tmp_path / "runs"))
    manifest, _ = _prepare(spec, store, model)
    assert len(_documents(store, manifest, manifest.train, tmp_path)) == 50
    assert len(_documents(store, manifest, manifest.validation, tmp_path)) == 7


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0, 0), (0.001, 1)])
def test_a_share_of_few_rows_holds_one_out_and_none_holds_none(
    tmp_path: Path, model: Path, fraction: float, held_out: int
) -> None:
    spec = _spec(_write_texts(tmp_path / "a.jsonl", 5), validation={"fraction": fraction}, packing=False)
    manifest, events = _prepare(spec, Store(str(tmp_path / "runs")), model)
    assert (manifest.train_samples, manifest.validation_samples) == (5 - held_out, held_out)
    assert [type(event) for event in events] == [
        Warned,
        StageStarted,
    ]  # a column that nothing uses; no warning of the split


def test_a_row_alone_trains_and_the_user_is_warned(tmp_path: Path, model: Path) -> None:
    manifest, events = _prepare(_spec(_write_texts(tmp_path / "a.jsonl", 1)), Store(str(tmp_path / "runs")), model)
    assert (manifest.train_samples, manifest.validation_samples) == (1, 0)
    assert any(isinstance(event, Warned) for event in events)


def _broken(folder: Path, name: str) -> str:
    lines = [json.dumps({"prompt": f"q{number}", "completion": f"a{number}"}) for number in range(40)]
    lines[16] = {
        "json": '{"prompt": "x", "completion" "y"}',
        "column": '{"prompt": "x"}',
        "type": '{"prompt": "x", "completion": 5}',
        "list": "[1, 2]",
    }[name]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return str(folder / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("json", "BrokenJSON"), ("column", "ColumnMissing"), ("type", "WrongType"), ("list", "NotAnObject")],
)
def test_a_broken_row_is_said_with_file_and_line_and_without_noise(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    spec = _spec(_broken(tmp_path, name))
    with pytest.raises(FinetuneError) as caught:
        _prepare(spec, Store(str(tmp_path / "runs")), model)
    failure = caught.value.failure
    assert type(caught.value) is FinetuneError
    assert (failure.cls, failure.reason) == (FailureClass.DATA, reason)
    assert failure.message.startswith(f"{tmp_path}/a.jsonl:17: ")
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "runs").exists()


def test_bytes_that_are_not_text_are_said_by_the_task_that_reads_them(tmp_path: Path, model: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n" * 500 + b"caf\xe9\n")
    with pytest.raises(FinetuneError, match=r"a\.txt:501: not UTF-8"):
        _prepare(_spec(f"{tmp_path}/a.txt"), Store(str(tmp_path / "runs")), model)


@pytest.mark.parametrize(
    ("question", "answer", "says"),
    [("To be?", None, "set lossOn: All"), ("To be? " * 50, "No.", "past spec.dataset.maxLength (64) in 30 rows")],
)
def test_nothing_to_learn_is_said_with_the_reason_and_a_row(
    tmp_path: Path, model: Path, question: str, answer: str | None, says: str
) -> None:
    turns = [{"role": "user", "content": question}] + ([{"role": "assistant", "content": answer}] if answer else [])
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 30))
    with pytest.raises(FinetuneError) as caught:
        _prepare(_spec(f"{tmp_path}/a.jsonl"), Store(str(tmp_path / "runs")), model)
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.DATA, "NothingToLearn")
    assert says in failure.remedy
    assert "30 noSupervisedToken" in failure.message
    assert "<|im_start|>user\nTo be?" in failure.detail
    assert len(failure.detail) < 800


def test_a_template_that_fails_is_found_before_ray_data_starts(tmp_path: Path, model: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "x"}]}))
    spec = _spec(f"{tmp_path}/a.jsonl", chatTemplate="\n{{ raise_exception('roles must alternate') }}")
    with pytest.raises(FinetuneError) as caught:
        _prepare(spec, Store(str(tmp_path / "runs")), model)
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.USER, "ChatTemplateFailed")
    assert "in its line 2: roles must alternate" in caught.value.failure.message
