"""What is exported is what was trained, and loads where our package is not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.contract.spec import ModelSpec
from finetune_training.model.artifact import Origin
from finetune_training.model.export import describe_artifact, merge_adapter, name_base, publish
from finetune_training.model.modelfiles import Parts, choose_files
from finetune_training.store.storage import open_store
from tests.tiny import write_model

TEXT = "Shall I compare thee to a summer's day?"


@pytest.fixture(params=["llama", "gptj", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", request.param)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_adapter(base, tmp_path / "adapter")


def write_adapter(base: Path, folder: Path) -> Path:
    """An adapter as training leaves it: both of its matrices are far from nothing, and its scale is not 1."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=4, lora_alpha=6, lora_dropout=0.1, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        get_peft_model(model, config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def logits_of(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(tokens).logits
    return logits


def test_the_merged_model_says_what_base_and_adapter_say(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(adapter, tmp_path / "merged", Origin(base, False))
    wanted, merged, without = logits_of(base, adapter), logits_of(tmp_path / "merged"), logits_of(base)
    assert (wanted - merged).abs().max() < 1e-5
    assert (wanted - without).abs().max() > 1e-2  # a merge that does nothing would be found


def test_the_merged_model_keeps_the_precision_and_the_files_of_the_base(base: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(base).save_pretrained(half)
    merge_adapter(write_adapter(half, tmp_path / "adapter"), tmp_path / "merged", Origin(half, False))
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert weights.keys() == load_file(half / "model.safetensors").keys()
    names = [path.name for path in (tmp_path / "merged").iterdir()]
    assert choose_files(names, uri="merged", parts=Parts.MODEL, remote_code=False)
    assert "chat_template.jinja" in names


def test_an_adapter_that_diverged_is_not_merged(base: Path, adapter: Path, tmp_path: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(FinetuneError) as caught:
        merge_adapter(adapter, tmp_path / "merged", Origin(base, False))
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.USER, "AdapterHasNaN")
    assert not (tmp_path / "merged").exists()


_FRESH = """
import json, sys
sys.modules["finetune_training"] = None  # importing it would fail
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
kind, folder, text = sys.argv[1:]
model = (AutoPeftModelForCausalLM if kind == "adapter" else AutoModelForCausalLM).from_pretrained(folder).eval()
tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
with torch.no_grad():
    print(json.dumps(model(tokens).logits.double().tolist()))
"""


def logits_in_a_fresh_process(kind: str, folder: Path) -> torch.Tensor:
    command = [sys.executable, "-I", "-c", _FRESH, kind, str(folder), TEXT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]), dtype=torch.float32)


def test_adapter_and_merged_model_load_where_our_package_is_not(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter")
    name_base(adapter, ModelSpec(uri=str(base)), revision="")
    merge_adapter(adapter, tmp_path / "merged", Origin(base, False))
    here = logits_of(base, adapter)
    assert (here - logits_in_a_fresh_process("adapter", adapter)).abs().max() < 1e-5
    assert (here - logits_in_a_fresh_process("merged", tmp_path / "merged")).abs().max() < 1e-5


def test_an_adapter_names_its_base_as_others_find_it(adapter: Path) -> None:
    def config() -> dict[str, object]:
        return dict(json.loads((adapter / "adapter_config.json").read_text()))

    before = config()
    name_base(adapter, ModelSpec(uri="hf://someone/model", revision="main"), revision="0123abc")
    assert (config()["base_model_name_or_path"], config()["revision"]) == ("someone/model", "0123abc")
    name_base(adapter, ModelSpec(uri="s3://models/base"), revision="a digest that PEFT would ask a hub for")
    assert config() == {**before, "base_model_name_or_path": "s3://models/base", "revision": None}


def test_every_file_of_an_artifact_has_its_digest(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    (folder / "more").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "more" / "a.txt").write_bytes(b"text")
    artifact = describe_artifact(folder, uri="s3://models/a", format="Adapter")
    sums = subprocess.run(
        ["sha256sum", "model.safetensors", "more/a.txt"], cwd=folder, capture_output=True, check=True
    ).stdout
    assert artifact.sha256 == hashlib.sha256(sums).hexdigest()
    assert [(file.path, file.bytes) for file in artifact.files] == [("model.safetensors", 7), ("more/a.txt", 4)]
    assert (artifact.uri, artifact.format, artifact.bytes) == ("s3://models/a", "Adapter", 11)
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert describe_artifact(folder, uri="s3://models/a", format="Adapter").sha256 != artifact.sha256


def test_publishing_replaces_an_older_model_whole(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    target = tmp_path / "published"
    target.mkdir()
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "notes.txt"):
        (target / name).write_text("older")
    (target / "model.safetensors.index.json").write_text("older")
    publish(base, open_store(str(target)))
    assert {path.name for path in target.iterdir()} == {path.name for path in base.iterdir()} | {"notes.txt"}
    assert torch.equal(logits_of(target), logits_of(base))


def test_a_model_whose_publishing_broke_off_is_no_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    target = tmp_path / "published"
    publish(base, open_store(str(target)))
    (target / "tokenizer.json").unlink()
    (target / "tokenizer.json").mkdir()  # the second upload fails half way
    (target / "tokenizer.json" / "in-the-way").touch()
    with pytest.raises(FinetuneError):
        publish(base, open_store(str(target)))
    assert not (target / "config.json").exists()


def test_publishing_a_folder_to_itself_changes_nothing(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    before = describe_artifact(base, uri="", format="Merged")
    publish(base, open_store(str(base)))
    assert describe_artifact(base, uri="", format="Merged") == before
