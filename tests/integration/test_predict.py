"""Files of prompts go in, the same rows come out with what the model says: by real Ray, as `finetune predict` does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_training.contract.failure import Failure, FailureClass, FinetuneError
from finetune_training.contract.spec import ModelSpec
from finetune_training.model.export import name_base, publish
from finetune_training.predict.generate import Sampling, load_language_model
from finetune_training.predict.predict import Answerer, BatchInference, predict_files, predict_one, target_of
from finetune_training.store.storage import open_store
from tests.servers.hub import Hub
from tests.tiny import write_model

SHORT = Sampling(max_new_tokens=8)
QUESTIONS = [f"Shall I compare {number * 7919} to {'thee' * (number % 5)}?" for number in range(150)]


pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "base", initializer_range=0.4)


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    folder = model.with_name("adapter")
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    name_base(folder, ModelSpec(uri=str(model)), revision="")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def answers(model: Path, prompts: list[Any], *, adapter: Path | None = None, chat: bool = True) -> list[str]:
    """What is answered without Ray."""
    return load_language_model(model, adapter=adapter).answer(prompts, sampling=SHORT, chat=chat)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch(source: Path | str, output: Path | str, **options: Any) -> BatchInference:
    return BatchInference(input=str(source), output=str(output), sampling=SHORT, **options)


def failure_of(target: Answerer, work: BatchInference, cache: Path) -> Failure:
    with pytest.raises(FinetuneError) as caught:
        predict_files(target, work, cache=cache)
    assert caught.value.failure.remedy
    return caught.value.failure


def test_every_row_comes_back_in_its_place_with_its_completion(model: Path, cache: Path, tmp_path: Path) -> None:
    rows = [{"id": number, "prompt": question, "tags": ["a"]} for number, question in enumerate(QUESTIONS)]
    source = write_lines(tmp_path / "prompts.jsonl", rows)
    told: list[int] = []
    work = batch(source, tmp_path / "out" / "completions.jsonl", concurrency=2)
    assert predict_files(target_of(str(model), cache=cache), work, cache=cache, on_rows=told.append) == len(rows)
    found = read_lines(tmp_path / "out" / "completions.jsonl")
    assert found == [
        {**row, "completion": completion} for row, completion in zip(rows, answers(model, QUESTIONS), strict=True)
    ]
    assert len({row["completion"] for row in found}) > len(rows) // 2  # else an order could not be told
    assert told == sorted(told)
    assert told[-1] == len(rows)
    assert len(told) > 1


@pytest.mark.slow
def test_messages_of_parquet_become_parquet_and_all_columns_stay(model: Path, cache: Path, tmp_path: Path) -> None:
    talks = [[{"role": "user", "content": question}] for question in QUESTIONS[:5]]
    known = [*talks[:-1], [*talks[-1], {"role": "assistant", "content": "what the row knows already"}]]
    pq.write_table(pa.table({"messages": known, "score": [0.5, None, 2.0, 3.0, 4.0]}), tmp_path / "talks.parquet")
    work = batch(tmp_path / "*.parquet", tmp_path / "completions.parquet")
    assert predict_files(target_of(str(model), cache=cache), work, cache=cache) == 5
    found = pq.read_table(tmp_path / "completions.parquet")
    assert found.schema.names == ["messages", "score", "completion"]
    assert found.column("messages").to_pylist() == known
    assert found.column("score").to_pylist() == [0.5, None, 2.0, 3.0, 4.0]
    assert found.column("completion").to_pylist() == answers(model, talks)


@pytest.mark.slow
def test_lines_of_text_are_prompts_as_they_stand(model: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Love alters not\n\nO no!\n")
    (tmp_path / "a.txt").write_text("If this be error\n")
    work = batch(tmp_path / "*.txt", tmp_path / "out", chat=False)
    assert predict_files(target_of(str(model), cache=cache), work, cache=cache) == 3
    prompts = ["If this be error", "Love alters not", "O no!"]
    assert read_lines(tmp_path / "out" / "part-00000.jsonl") == [
        {"prompt": prompt, "completion": completion}
        for prompt, completion in zip(prompts, answers(model, prompts, chat=False), strict=True)
    ]


@pytest.mark.slow
def test_an_adapter_finds_its_base_and_can_be_left_out(model: Path, adapter: Path, cache: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "prompts.jsonl", [{"prompt": question} for question in QUESTIONS[:3]])
    target = target_of(str(adapter), cache=cache)
    assert target == Answerer(ModelSpec(uri=str(model)), ModelSpec(uri=str(adapter)))
    tuned, base = answers(model, QUESTIONS[:3], adapter=adapter), answers(model, QUESTIONS[:3])
    assert tuned != base
    for asked, expected in ((target, tuned), (target.without_adapter(), base)):
        predict_files(asked, batch(source, tmp_path / "out.jsonl"), cache=cache)
        assert [row["completion"] for row in read_lines(tmp_path / "out.jsonl")] == expected
        assert predict_one(asked, QUESTIONS[0], cache=cache, sampling=SHORT) == expected[0]


def test_model_adapter_prompts_and_completions_may_all_lie_in_a_store(
    s3_prefix: str, model: Path, adapter: Path, cache: Path, tmp_path: Path
) -> None:
    publish(model, open_store(f"{s3_prefix}/base"))
    there = tmp_path / "adapter"
    publish(adapter, open_store(str(there)))
    name_base(there, ModelSpec(uri=f"{s3_prefix}/base"), revision="")
    publish(there, open_store(f"{s3_prefix}/adapter"))
    open_store(s3_prefix).put("in/prompts.csv", b"prompt,completion\n" + f'"{QUESTIONS[0]}",No.\n'.encode())
    target = target_of(f"{s3_prefix}/adapter", cache=cache)
    assert predict_files(target, batch(f"{s3_prefix}/in/*.csv", f"{s3_prefix}/out.jsonl"), cache=cache) == 1
    written = json.loads(open_store(s3_prefix).get("out.jsonl") or b"")
    expected = answers(model, QUESTIONS[:1], adapter=adapter)[0]
    assert written == {"prompt": QUESTIONS[0], "reference": "No.", "completion": expected}


def test_an_adapter_of_a_hub_model_asks_the_hub_for_it(
    hub: Hub, model: Path, adapter: Path, cache: Path, tmp_path: Path
) -> None:
    old = hub.publish("someone/tiny", model)
    hub.publish("someone/tiny", write_model(tmp_path / "newer", seed=5))
    there = tmp_path / "adapter"
    publish(adapter, open_store(str(there)))
    name_base(there, ModelSpec(uri="hf://someone/tiny"), revision=old)
    target = target_of(str(there), cache=cache)
    assert target.model == ModelSpec(uri="hf://someone/tiny", revision=old)
    answer = predict_one(target, QUESTIONS[0], cache=cache, sampling=SHORT)
    assert answer == answers(model, QUESTIONS[:1], adapter=adapter)[0]


@pytest.mark.parametrize(
    ("rows", "reason", "says"),
    [
        ([{"question": "?", "id": 1}], "ColumnMissing", "there are 'question', 'id'"),
        ([{"prompt": "Love"}, {"id": 2}], "ColumnMissing", ":2: there is no column 'prompt'; there are 'id'"),
        ([{"prompt": " "}], "EmptyPrompt", ":1: the column 'prompt' asks nothing"),
        ([{"prompt": "Love"}, {"prompt": "Love? " * 2000}], "PromptTooLong", "this model takes 2048"),
        ([], "NoRows", "has no row"),
    ],
)
def test_input_that_cannot_be_asked_is_a_data_error_that_says_where(
    rows: list[dict[str, Any]], reason: str, says: str, model: Path, cache: Path, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "prompts.jsonl", rows)
    failure = failure_of(target_of(str(model), cache=cache), batch(source, tmp_path / "out.jsonl"), cache)
    assert (failure.cls, failure.reason) == (FailureClass.DATA, reason)
    assert says in failure.message
    assert not (tmp_path / "out.jsonl").exists()


def test_models_and_outputs_that_are_not_there_are_named(model: Path, cache: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "prompts.jsonl", [{"prompt": "Love"}])
    target = target_of(str(model), cache=cache)
    assert failure_of(target, batch(tmp_path / "absent.jsonl", tmp_path / "out.jsonl"), cache).reason == "NoFile"
    assert failure_of(target, batch(source, tmp_path / "out.xlsx"), cache).reason == "OutputUnknown"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "part-00000.jsonl").touch()
    assert failure_of(target, batch(source, tmp_path / "full"), cache).reason == "OutputExists"
    for uri in (str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(FinetuneError) as caught:
            target_of(uri, cache=cache)
        assert uri in caught.value.failure.message
