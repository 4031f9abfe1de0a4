"""What LoRA may adapt: PEFT's word on the model's outline, told as the field that it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.model.lora import outline, targets
from finetune_training.preflight.adapters import check_adapters
from finetune_training.preflight.finding import Finding, Level
from tests.tiny import write_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "tied": write_model(root / "tied"),
        "untied": write_model(root / "untied", tie_word_embeddings=False),
        "gpt2": write_model(root / "gpt2", "gpt2"),
    }


def spec(said: Any, **method: Any) -> RunSpec:
    body = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}}
    return RunSpec.model_validate({**body, "method": {"lora": {"targetModules": said, "rank": 4}, **method}})


def check(folder: Path, said: Any, **method: Any) -> Finding | None:
    asked = spec(said, **method)
    return next(iter(check_adapters(outline(folder, asked), asked)), None)


@pytest.mark.parametrize(
    ("model", "said", "message"),
    [
        ("tied", "all-linear", "adapters on 14 modules: "),
        ("tied", ["q_proj", "v_proj"], "adapters on 4 modules: q_proj (2), v_proj (2)."),
        ("tied", "q_proj", "adapters on 2 modules: q_proj (2)."),
        ("tied", r".*\.layers\.0\..*_proj", "adapters on 7 modules: "),
        ("untied", ["embed_tokens", "q_proj"], "adapters on 3 modules: embed_tokens (1), q_proj (2)."),
        ("gpt2", "all-linear", "adapters on 8 modules: "),
    ],
)
def test_what_can_be_adapted_is_counted(model: str, said: Any, message: str, folders: dict[str, Path]) -> None:
    finding = check(folders[model], said)
    assert finding is not None
    assert finding.level is Level.OK
    assert message in finding.message


NAMES = "q_proj (2), k_proj (2), v_proj (2), o_proj (2), gate_proj (2), up_proj (2), down_proj (2)"


@pytest.mark.parametrize(
    ("model", "said", "message", "remedy"),
    [
        ("tied", ["q_proj", "v_porj"], "what this model does not have: v_porj.", "Did you mean v_proj?"),
        ("tied", ["c_attn"], "what this model does not have: c_attn.", NAMES),
        ("tied", "c_attn|c_proj", "what this model does not have", NAMES),
        ("tied", "q_proj,v_proj", "what this model does not have", "Write a list: [q_proj, v_proj]."),
        ("tied", "q_proj|v_proj", "what this model does not have", "Write a list: [q_proj, v_proj]."),
        ("tied", [], "what this model does not have: nothing.", NAMES),
        ("tied", "(q_proj", "is no regular expression", NAMES),
        ("tied", ["q_proj", "input_layernorm"], "input_layernorm is a LlamaRMSNorm", NAMES),
        ("tied", ["mlp"], "mlp is a LlamaMLP", NAMES),
        ("tied", ".*", "modules that LoRA cannot adapt", NAMES),
        ("tied", ["lm_head"], "output layer (lm_head) would not be trained", NAMES),
        ("untied", ["lm_head", "q_proj"], "output layer (lm_head) would not be trained", NAMES),
        ("tied", ["embed_tokens", "q_proj"], "embeddings of this model (embed_tokens) are its output layer", "Full"),
        ("gpt2", ["wte"], "embeddings of this model (wte) are its output layer too", "c_attn (2)"),
    ],
)
def test_what_cannot_is_refused_with_the_modules_there_are(
    model: str, said: Any, message: str, remedy: str, folders: dict[str, Path]
) -> None:
    finding = check(folders[model], said)
    assert finding is not None
    assert isinstance(finding.error, FinetuneError)
    assert (finding.error.failure.cls, finding.error.failure.reason) == ("User", "InvalidTargetModules")
    assert "spec.method.lora.targetModules" in finding.message
    assert message in finding.message
    assert remedy in finding.remedy
    assert "lm_head (" not in finding.remedy


def test_a_full_run_has_no_adapters(folders: dict[str, Path]) -> None:
    assert check(folders["tied"], ["nothing"], type="Full") is None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("q_proj", ["q_proj"]),
        ("model.layers.0.mlp.up_proj", ["model.layers.0.mlp.up_proj"]),
        ("all-linear", "all-linear"),
        (".*_proj", ".*_proj"),
        (["q_proj"], ["q_proj"]),
    ],
)
def test_a_plain_name_is_a_name_before_it_is_a_pattern(said: Any, meant: Any) -> None:
    assert targets(spec(said)) == meant


def test_a_config_that_transformers_cannot_read_is_the_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(FinetuneError) as raised:
        outline(tmp_path, spec("all-linear"))
    assert raised.value.failure.reason == "ModelNotLoadable"
