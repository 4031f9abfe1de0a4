"""What is published was compared with what was evaluated, all of it before any of it; what differs is published nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.contract.spec import Job, ModelSpec
from finetune_training.driver.finish import Finish, Finished, finish
from finetune_training.events.progress import Likelihoods
from finetune_training.model import export
from finetune_training.model.artifact import Origin, complete_adapter
from finetune_training.model.comparison import likelihoods
from finetune_training.model.export import name_base, write_model
from finetune_training.store.storage import Store
from tests.tiny import write_model as write_tiny

ROWS = [list(range(20, 60)), list(range(100, 160)), [7, 301, 44, 12, 90, 3, 211]]


class Trained:
    """A run whose ranks are done: what they have left, and what they made of the rows."""

    def __init__(
        self, folder: Path, *, method: str = "LoRA", targets: Any = "all-linear", precision: str = "FP32", **config: Any
    ) -> None:
        self.folder, self.out = folder, folder / "out"
        self.base = write_tiny(folder / "base", initializer_range=0.2, **config)
        self.store = Store(str(folder / "run"))
        left = folder / "run" / "trained" / ("adapter" if method == "LoRA" else "merged")
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype="auto")
        torch.manual_seed(7)
        if method == "LoRA":
            lora = LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
            model.save_pretrained(left, save_embedding_layers=False)
            complete_adapter(left, Origin(self.base, False))
            name_base(left, ModelSpec(uri=str(self.base)), revision="")
        else:
            model.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)
            write_model(model, left, Origin(self.base, False))
        self.left, self.said = left, likelihoods(model.bfloat16() if precision == "BF16" else model, ROWS)
        output = [{"format": "Merged", "uri": str(self.out / "merged")}]
        if method == "LoRA":
            output = [{"format": "Adapter", "uri": str(self.out / "adapter")}, *output]
        spec = {
            "model": {"uri": str(self.base)},
            "dataset": {"train": [{"uri": "unused"}]},
            "method": {"type": method},
            "training": {"precision": precision},
            "output": output,
        }
        self.job = Job.model_validate({"name": "run", "spec": spec})

    def finish(self, said: list[Likelihoods] | None = None, prompts: tuple[str, ...] = ()) -> Finished:
        likelihoods = tuple(self.said if said is None else said)
        return finish(Finish(self.job, self.store, list(prompts), False, self.folder / "staging", likelihoods))

    def refused(self) -> str:
        """Why nothing is published; and nothing is."""
        with pytest.raises(FinetuneError) as caught:
            self.finish()
        failure = caught.value.failure
        assert (failure.cls, failure.reason) == (FailureClass.INFRASTRUCTURE, "ArtifactDiffers")
        assert self.store.entries("result") == []
        assert not self.out.exists()
        assert self.left.is_dir()
        return failure.message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_what_says_the_same_is_published_and_what_the_ranks_left_is_gone(
    method: str, dtype: str, tmp_path: Path
) -> None:
    run = Trained(tmp_path, method=method, dtype=dtype)
    done = run.finish(prompts=("Love",))
    formats = ["Adapter", "Merged"] if method == "LoRA" else ["Merged"]
    assert [artifact.format for artifact in done.artifacts] == formats
    assert len(done.samples) == 1
    for artifact, kind in zip(done.artifacts, formats, strict=True):
        names = {file.path for file in artifact.files}
        for folder in (tmp_path / "run" / "result" / kind.lower(), run.out / kind.lower()):
            assert {path.name for path in folder.iterdir()} == names
    assert not run.left.exists()


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_a_base_that_is_finer_than_the_run_differs_by_what_the_run_has_rounded(method: str, tmp_path: Path) -> None:
    run = Trained(tmp_path, method=method, precision="BF16")
    assert run.finish().artifacts


def test_a_merged_model_that_is_broken_on_purpose_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = export.merge_adapter

    def merge_and_break(adapter: Path, out: Path, origin: Origin) -> None:
        merge(adapter, out, origin)
        weights = load_file(out / "model.safetensors")
        weights["model.layers.1.mlp.down_proj.weight"] *= 1.1
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(export, "merge_adapter", merge_and_break)
    message = Trained(tmp_path).refused()
    assert message.startswith("The Merged artifact is not the base model with the adapter: on 3 rows")
    assert "0.0005 is tolerated" in message


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_weights_that_changed_after_they_were_evaluated_publish_nothing(method: str, tmp_path: Path) -> None:
    run = Trained(tmp_path, method=method)
    (path,) = run.left.glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[-2]
    save_file({**weights, name: weights[name] * 1.5}, path, metadata={"format": "pt"})
    kind = "Adapter" if method == "LoRA" else "Merged"
    assert run.refused().startswith(f"The {kind} artifact is not the model that was evaluated: on 3 rows")


def test_an_artifact_that_cannot_be_loaded_is_not_the_users_mistake(tmp_path: Path) -> None:
    run = Trained(tmp_path, method="Full")
    (run.left / "model.safetensors").write_bytes(b"half a fi")
    assert run.refused().startswith("The Merged artifact cannot be loaded as it was written: ")


def test_an_adapter_on_embeddings_that_are_tied_is_not_merged_into_the_output_layer(tmp_path: Path) -> None:
    """PEFT adds it to the weight that both share."""
    message = Trained(tmp_path, targets=["embed_tokens", "q_proj"]).refused()
    assert message.startswith("The Merged artifact is not the base model with the adapter")


def test_without_rows_to_compare_by_nothing_is_published(tmp_path: Path) -> None:
    run = Trained(tmp_path)
    run.said = []
    run.refused()


def test_numbers_that_are_none_are_not_alike(tmp_path: Path) -> None:
    run = Trained(tmp_path)
    run.said = [Likelihoods(row.tokens, [float("nan")] * len(row.log_probs)) for row in run.said]
    assert "inf apart" in run.refused()


def test_a_prompt_that_the_model_has_no_room_for_does_not_end_a_run_that_is_trained(tmp_path: Path) -> None:
    prompts = ("Love", "Love? " * 20, "Love? " * 60)
    short, cut, long = Trained(tmp_path, max_position_embeddings=96).finish(prompts=prompts).samples
    assert short.base
    assert cut.base
    assert "not asked" not in short.tuned + cut.base + cut.tuned
    assert long.tuned.startswith("(not asked: The prompt 'Love")
    assert long.base == long.tuned
