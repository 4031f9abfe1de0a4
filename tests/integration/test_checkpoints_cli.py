"""`finetune checkpoints` and `resumeFrom` on what real ranks have written, in a folder and in S3."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_training.checkpoint import shelf
from finetune_training.checkpoint.extract import export
from finetune_training.checkpoint.run_folder import remember
from finetune_training.contract.spec import Job
from finetune_training.events.progress import Evaluated, Resumed, Warned
from finetune_training.store.storage import Store, open_store
from tests.cli import Ended, finetune, write_job, write_rows
from tests.ranks import Case, Outcome, make_data, run_ranks
from tests.tiny import write_model

STEPS = 2
# Name: method, stage, precision. The optimizer's state differs from stage to stage, and what is written at all.
RUNS = {
    "full-0": ("Full", 0, "BF16"),
    "full-2": ("Full", 2, "FP32"),
    "full-3": ("Full", 3, "BF16"),
    "lora-0": ("LoRA", 0, "FP32"),
    "lora-2": ("LoRA", 2, "BF16"),
    "lora-3": ("LoRA", 3, "BF16"),
}


def job(model: Path, method: str, stage: int, precision: str = "FP32", *, steps: int = STEPS, start: str = "") -> Job:
    training = {"globalBatchSize": 4, "maxSteps": steps, "learningRate": 5e-3, "precision": precision, "warmupRatio": 0}
    spec = {
        "model": {"uri": str(model)},
        "dataset": {"train": [{"uri": "unused"}], "maxLength": 64},
        "method": {"type": method, "lora": {"rank": 4}},
        "training": {**training, "scheduler": "Constant", "gradientCheckpointing": False},
        "deepspeed": {"stage": stage},
        "checkpoint": {"everySteps": 0, "resumeFrom": {"uri": start}},
    }
    return Job.model_validate({"name": "run", "spec": spec})


def case(folder: Path, the_job: Job, **changes: Any) -> Case:
    remember(Store(str(folder)), the_job, "yaml")
    return Case(the_job, folder, make_data(folder, samples=11, validation=4), **changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    """A folder with a finished run of two ranks for each of RUNS; two more go on from `lora-2`, and one does the same from the
    beginning."""
    folder = tmp_path_factory.mktemp("runs")
    cases = {name: case(folder / name, job(model, *kind)) for name, kind in RUNS.items()}
    longer = {"method": "LoRA", "stage": 2, "precision": "BF16", "steps": 2 * STEPS}
    cases["whole"] = case(folder / "whole", job(model, **longer))  # type: ignore[arg-type]
    cases["longer"] = case(folder / "longer", job(model, **longer, start=str(folder / "lora-2")), stop_after=STEPS + 1)  # type: ignore[arg-type]
    cases["longer again"] = replace(cases["longer"], attempt=2, stop_after=None)
    outcomes = run_ranks(list(cases.values()), ranks=2, folder=folder / "ranks")
    found = dict(zip(cases, outcomes, strict=True))
    assert {name: outcome.failure for name, outcome in found.items() if outcome.failure} == {}
    return folder, found


def exported(run: Path, out: Path, staging: Path, *, merged: bool = False) -> Path:
    store = Store(str(run))
    checkpoint = shelf.chosen(shelf.checkpoints(store), "latest", uri=store.uri)
    export(store, checkpoint, str(out), merged=merged, staging=staging)
    return out


@pytest.mark.parametrize("name", RUNS)
def test_the_last_checkpoint_is_exported_as_the_run_has_published_it(
    runs: tuple[Path, dict[str, Outcome]], name: str, tmp_path: Path
) -> None:
    run = runs[0] / name
    method = RUNS[name][0]
    out = exported(run, tmp_path / "out", tmp_path / "staging")
    published = run / "trained" / ("adapter" if method == "LoRA" else "merged")
    assert {path.name for path in out.iterdir()} == {path.name for path in published.iterdir()}
    for path in published.iterdir():
        if path.suffix == ".safetensors":
            expected, found = load_file(path), load_file(out / path.name)
            assert found.keys() == expected.keys()
            assert "lm_head.weight" not in found  # it is the embedding
            assert all(found[key].dtype == expected[key].dtype for key in found)
            assert all(torch.equal(found[key], expected[key]) for key in found)
        elif path.suffix == ".json":
            assert _settings(out / path.name) == _settings(path), path.name
        else:
            assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_run_on_gpus_is_exported_where_there_is_none(runs: tuple[Path, dict[str, Outcome]], tmp_path: Path) -> None:
    name = next(name for name, (method, *_) in RUNS.items() if method == "Full")
    run = shutil.copytree(runs[0] / name, tmp_path / "run")
    spec = json.loads((run / "spec.json").read_text())
    spec["model"]["attention"] = "FlashAttention2"
    (run / "spec.json").write_text(json.dumps(spec))
    out = exported(run, tmp_path / "out", tmp_path / "staging")
    assert (out / "model.safetensors").read_bytes() == (run / "trained" / "merged" / "model.safetensors").read_bytes()


def _settings(path: Path) -> Any:
    """Lists of names are sets there."""
    body = json.loads(path.read_text())
    return {
        key: sorted(value) if isinstance(value, list) and key == "target_modules" else value
        for key, value in body.items()
    }


def test_a_merged_export_is_loaded_by_transformers_alone(
    runs: tuple[Path, dict[str, Outcome]], model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = exported(runs[0] / "lora-3", tmp_path / "out", tmp_path / "staging", merged=True)
    tokens = torch.arange(1, 20).unsqueeze(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    before = base(tokens).logits
    expected = PeftModel.from_pretrained(base, runs[0] / "lora-3" / "trained" / "adapter")(tokens).logits
    found = AutoModelForCausalLM.from_pretrained(out)(tokens).logits
    assert (expected - before).abs().max() > 1e-3
    assert torch.allclose(found, expected, atol=2e-2)


def test_a_run_goes_on_exactly_where_another_was_and_then_from_its_own(
    runs: tuple[Path, dict[str, Outcome]],
) -> None:
    _, outcomes = runs
    first, whole = outcomes["lora-2"], outcomes["whole"]
    longer, again = outcomes["longer"], outcomes["longer again"]
    assert [event.step for event in longer.events if isinstance(event, Resumed)] == [STEPS]
    (resumed,) = [event for event in again.events if isinstance(event, Resumed)]
    assert (resumed.step, "/longer/" in resumed.uri) == (STEPS + 1, True)
    assert first.losses + longer.losses + again.losses == whole.losses


def test_weights_begin_another_run_on_another_number_of_ranks_and_stage(
    runs: tuple[Path, dict[str, Outcome]], model: Path, tmp_path: Path
) -> None:
    folder, before = runs
    starts = {"lora-3": (0, "LoRA"), "lora-2": (3, "LoRA"), "full-3": (2, "Full"), "full-0": (3, "Full")}
    cases = [
        case(tmp_path / name, job(model, method, stage, RUNS[name][2], start=str(folder / name)))
        for name, (stage, method) in starts.items()
    ]
    wider = Job.model_validate(cases[0].job.model_dump(by_alias=True))
    wider = wider.model_copy(update={"spec": wider.spec.model_copy(update={"method": wider.spec.method.model_copy(
        update={"lora": wider.spec.method.lora.model_copy(update={"rank": 8})})})})  # fmt: skip
    cases.append(case(tmp_path / "wider", wider))
    *outcomes, refused = run_ranks(cases, ranks=1, folder=tmp_path / "ranks")
    for name, outcome in zip(starts, outcomes, strict=True):
        assert outcome.failure is None
        warnings = [event.message for event in outcome.events if isinstance(event, Warned)]
        assert sum("step 0" in each for each in warnings) == 1
        assert len(outcome.losses) == STEPS
        began = next(event for event in outcome.events if isinstance(event, Evaluated))
        assert began.loss == pytest.approx(before[name].held_out[-1], abs=1e-5)
        assert abs(began.loss - before[name].held_out[0]) > 1e-3  # the base model's
    assert refused.failure is not None
    assert refused.failure.reason == "CheckpointDoesNotFit"
    assert "in another shape" in refused.failure.message


@pytest.mark.slow
def test_the_commands_on_a_run_in_s3_and_another_run_that_begins_there(
    model: Path, s3_prefix: str, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    where = {"uri": f"{s3_prefix}/runs", "everySteps": 2}
    evaluation = {"everySteps": 2, "prompts": ["Hello"]}
    first = write_job(
        tmp_path, model=model, data=rows, training={"maxSteps": 4}, checkpoint=where, evaluation=evaluation
    )

    def checkpoints(*arguments: str, code: int = 0) -> Ended:
        ended = finetune(tmp_path, "checkpoints", *arguments)
        assert ended.code == code, ended.output
        return ended

    ended = finetune(tmp_path, "run", str(first))
    assert ended.code == 0, ended.output
    uri = f"{s3_prefix}/runs/tiny"
    listed = checkpoints("list", str(first), "--verify").output
    assert [line.split()[:2] for line in listed.splitlines()] == [["step", "attempt"], ["4", "1"], ["2", "1"]]
    assert listed.count("ok") == 2
    assert "best" in listed.splitlines()[2]
    said = checkpoints("export", uri, "latest", str(tmp_path / "adapter")).output
    assert "step-00000004-a1: adapter" in said
    store = open_store(uri)
    weights = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert weights == store.get("result/adapter/adapter_model.safetensors")

    store.put("checkpoints/step-00000004-a1/trainer_state.json", b"{}")
    damaged = checkpoints("verify", uri, code=3).output
    assert "step-00000002-a1: ok" in damaged
    assert "step-00000004-a1: trainer_state.json has 2 bytes" in damaged
    assert "Left: step-00000002-a1." in checkpoints("delete", uri, "4").output
    assert "LastCheckpoint" in checkpoints("delete", uri, "2", code=2).output

    second = write_job(
        tmp_path, model=model, data=rows, name="second", training={"maxSteps": 2, "seed": 7}, evaluation=evaluation,
        checkpoint={**where, "resumeFrom": {"uri": uri}},
    )  # fmt: skip
    ended = finetune(tmp_path, "run", str(second))
    assert ended.code == 0, ended.output
    assert "seed (42 instead of 7)" in ended.output
