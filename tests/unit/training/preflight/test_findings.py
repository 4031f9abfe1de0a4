"""Whatever a model's config or code makes libraries raise is the user's, with its words, or is not checked: never a bug, and
never a refusal of what would run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import dynamic_module_utils

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.preflight import adapters
from finetune_training.preflight.finding import Finding, Level
from finetune_training.preflight.findings import findings
from tests.tiny import write_model

OWN_CONFIG = "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
OWN_MODEL = """
import torch
from transformers import LlamaForCausalLM
from .own_config import OwnConfig

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """transformers copies code that comes with a model to a folder, and imports it from there: each test its own."""
    _forget()
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield tmp_path
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def spec(*, trust: bool = False) -> RunSpec:
    model = {"uri": "m", "trustRemoteCode": trust}
    lora = {"targetModules": ["q_proj"]}
    return RunSpec.model_validate({"model": model, "dataset": {"train": [{"uri": "d"}]}, "method": {"lora": lora}})


def changed(folder: Path, **config: Any) -> Path:
    write_model(folder)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    return folder


def own(folder: Path, code: str) -> Path:
    """A model that brings its own class."""
    auto_map = {"AutoConfig": "own_config.OwnConfig", "AutoModelForCausalLM": "own_model.OwnModel"}
    changed(folder, model_type="own", auto_map=auto_map)
    (folder / "own_config.py").write_text(OWN_CONFIG)
    (folder / "own_model.py").write_text(OWN_MODEL + code)
    return folder


def adapted(found: list[Finding]) -> Finding:
    return next(each for each in found if each.check == adapters.CHECK)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "modulo by zero"),
        ({"num_attention_heads": 3}, "attention heads"),
        ({"hidden_size": 64.5}, "hidden_size"),
        ({"vocab_size": "x"}, "vocab_size"),
        ({"pad_token_id": "x"}, "pad_token_id"),
        ({"rope_parameters": "yes"}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "low_freq_factor"),
        ({"dtype": "nope", "torch_dtype": "nope"}, "nope"),
        ({"hidden_act": "nope"}, "nope"),
        ({"model_type": "vit"}, "Unrecognized configuration class"),
        ({"model_type": "nope"}, "model type `nope`"),
    ],
)
def test_a_value_of_the_config_that_nobody_can_use_is_the_users(
    config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(FinetuneError) as caught:
        findings(changed(tmp_path / "model", **config), spec())
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "ModelNotLoadable")
    assert says in failure.message + failure.detail
    assert failure.remedy


@pytest.mark.parametrize(
    "error", ["RuntimeError", "ValueError", "ImportError", "AttributeError", "NotImplementedError"]
)
def test_what_only_an_outline_cannot_do_is_not_checked(error: str, own_code: Path) -> None:
    """Code that reads a weight, or wants a package of the ranks."""
    code = f"    def __init__(self, config):\n        raise {error}('needs more')\n"
    finding = adapted(findings(own(own_code / error, code), spec(trust=True)))
    assert finding.level is Level.WARNING
    assert (
        f"is not checked, because the model cannot be outlined without its weights: {error}: needs more"
        in finding.message
    )


def test_a_model_of_its_own_code_is_checked_as_any(own_code: Path) -> None:
    finding = adapted(findings(own(own_code / "whole", ""), spec(trust=True)))
    assert finding.message == "adapters on 2 modules: q_proj (2)."


def test_an_attention_that_only_the_ranks_have_refuses_nothing(tmp_path: Path) -> None:
    folder = changed(
        tmp_path / "model", attn_implementation="flash_attention_2", _attn_implementation="flash_attention_2"
    )
    assert adapted(findings(folder, spec())).level is Level.OK


@pytest.mark.parametrize("raised", [RuntimeError("meta"), AttributeError("weight"), NotImplementedError("no")])
def test_what_peft_raises_of_anything_but_the_field_is_not_checked(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Callable[..., Any]:
        raise raised

    monkeypatch.setattr(adapters, "get_peft_model", fails)
    assert adapted(findings(changed(tmp_path / "model"), spec())).level is Level.WARNING
