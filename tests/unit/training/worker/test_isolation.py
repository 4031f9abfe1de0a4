"""No false alarm, whatever the rounding, and no leak that is not found. BF16 as in real runs: FP32 rounds too little to tell.
(With the model of the demo: tests/integration/test_isolation.py.)"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from finetune_training.contract.failure import FinetuneError
from finetune_training.worker.isolation import check_isolation
from finetune_training.worker.objective import Collator
from tests.isolation import Alone, take_the_mask_away
from tests.tiny import VOCABULARY

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 256,
}  # fmt: skip
DENSE: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 128},
    "gemma3_text": {"intermediate_size": 128, "head_dim": 16, "sliding_window": 16},
}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 64, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"moe_intermediate_size": 32, "num_experts": 16, "num_experts_per_tok": 4, "head_dim": 16},
}
# Convolutions and recurrent layers of which transformers' own code does not begin anew with a document.
LEAKING: dict[str, dict[str, Any]] = {
    "lfm2": {"intermediate_size": 128, "layer_types": ["conv", "full_attention"]},
    "falcon_h1": {
        "intermediate_size": 128, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16,
    },
}  # fmt: skip
PRECISIONS = [torch.bfloat16, torch.float32]


def made(architecture: str, config: dict[str, Any], precision: torch.dtype) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(architecture, **{**SIZES, **config}), dtype=precision
        )
    with torch.no_grad():  # as far from uniform as a trained model
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    add_fused_lm_head(model)
    return model


def check(model: Any, *, flatten: bool = False, world: Alone | None = None) -> None:
    check_isolation(
        model,
        Collator(0, flatten=flatten),
        rows=2,
        length=32,
        vocabulary=VOCABULARY,
        device=torch.device("cpu"),
        world=world or Alone(),
    )


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("architecture", [*DENSE, *EXPERTS])
def test_a_model_that_isolates_passes(architecture: str, precision: torch.dtype) -> None:
    model = made(architecture, (DENSE | EXPERTS)[architecture], precision)
    check(model)
    assert model.training


def test_a_model_that_isolates_passes_with_all_samples_in_one_row() -> None:
    check(made("llama", DENSE["llama"], torch.bfloat16), flatten=True)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("architecture", [*DENSE, *EXPERTS])
def test_a_model_whose_mask_is_taken_away_is_found(architecture: str, precision: torch.dtype) -> None:
    model = made(architecture, (DENSE | EXPERTS)[architecture], precision)
    take_the_mask_away(model)
    with pytest.raises(FinetuneError) as raised:
        check(model)
    failure = raised.value.failure
    assert (failure.cls, failure.reason) == ("User", "PackingLeaks")
    assert "packing: false" in failure.remedy


@pytest.mark.parametrize("architecture", LEAKING)
def test_an_architecture_that_carries_a_state_over_is_found(architecture: str) -> None:
    with pytest.raises(FinetuneError) as raised:
        check(made(architecture, LEAKING[architecture], torch.bfloat16))
    assert raised.value.failure.reason == "PackingLeaks"


def test_a_leak_that_one_rank_finds_is_raised_by_all() -> None:
    with pytest.raises(FinetuneError):
        check(made("llama", DENSE["llama"], torch.float32), world=Alone(others=(1.0,)))


def test_numbers_that_are_not_finite_are_for_the_loss_to_tell() -> None:
    check(made("llama", DENSE["llama"], torch.float32), world=Alone(others=(math.nan,)))
