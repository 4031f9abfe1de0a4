"""What the ranks note of a model is what plain transformers finds in its artifact, however far from 0 its logits are: BF16 keeps
8 bits of a number, and of one around 100 nothing that is smaller than 0.25."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from finetune_training.model.comparison import TOLERANCE, TOLERANCE_FP32, difference, likelihoods
from finetune_training.worker.objective import Collator
from finetune_training.worker.witness import witness
from tests.tiny import VOCABULARY

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128, "n_positions": 256},
    "phi": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4},
    "cohere": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4},
    "gemma2": {
        "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "final_logit_softcapping": 30.0,
    },
}  # fmt: skip
"""Of which the second has a bias in its head, the third a scale after it, the fourth a cap."""
SAMPLES = [
    {"input_ids": list(range(first, first + 40)), "labels": list(range(first, first + 40)), "seq_lengths": [40]}
    for first in (5, 100, 211, 300)
]


def made(architecture: str, precision: torch.dtype, *, far: bool) -> Any:
    """`far`: all its logits are lower by 100, by the first dimension of what its head is given."""
    config = {
        **SIZES[architecture],
        "vocab_size": VOCABULARY,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **config), dtype=precision)
    if far:
        with torch.no_grad():
            model.base_model.ln_f.bias[0] = 100
            model.lm_head.weight[:, 0] = -1
    return model


def noted(model: Any) -> Any:
    trainer = SimpleNamespace(
        model=model,
        model_wrapped=model,
        data_collator=Collator(0, flatten=False),
        _prepare_inputs=lambda batch: batch,
    )
    return witness(trainer, SAMPLES)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("architecture", SIZES)
def test_ranks_and_artifact_say_the_same(architecture: str, precision: torch.dtype) -> None:
    model = made(architecture, precision, far=False)
    found = likelihoods(model, [each["input_ids"] for each in SAMPLES])
    add_fused_lm_head(model)
    assert difference(noted(model), found) < (TOLERANCE_FP32 if precision is torch.float32 else TOLERANCE / 5)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_logits_far_from_0_are_told_apart(adapter: bool) -> None:
    exact, model = made("gpt2", torch.float32, far=True), made("gpt2", torch.bfloat16, far=True)
    wanted = likelihoods(exact, [each["input_ids"] for each in SAMPLES])
    assert difference(wanted, likelihoods(model, [row.tokens for row in wanted])) < TOLERANCE / 5
    logits = model(input_ids=torch.tensor([wanted[0].tokens])).logits
    assert logits.dtype is torch.bfloat16, "the model is as it was"
    add_fused_lm_head(model)
    trained = get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)) if adapter else model
    assert difference(wanted, noted(trained)) < TOLERANCE / 5
