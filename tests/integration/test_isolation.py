"""No false alarm with the model that users run, and no leak that is not found: 200 draws of tokens each, in BF16 and FP32, of the
model as it is and with an adapter that changes it a lot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from finetune_training.contract.failure import FinetuneError
from finetune_training.worker.isolation import check_isolation
from finetune_training.worker.objective import Collator
from tests.isolation import Alone, take_the_mask_away
from tests.real import real_model

SEEDS = 200
SHORT, BATCH = ((1, 16), (1, 48)), (2, 256)
"""Rows and tokens. Every 50th draw is a batch of the demo's; the others are cheap enough to be many."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def loaded(precision: torch.dtype, *, adapter: bool) -> Any:
    model = AutoModelForCausalLM.from_pretrained(real_model(), dtype=precision)
    add_fused_lm_head(model)
    if adapter:
        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
    return model


def leaks(model: Any, seed: int) -> bool:
    rows, length = SHORT[seed % 2] if seed % 50 else BATCH
    options: dict[str, Any] = {"rows": rows, "length": length, "vocabulary": 49_000, "seed": seed}
    try:
        check_isolation(model, Collator(0, flatten=False), **options, device=torch.device("cpu"), world=Alone())
    except FinetuneError as error:
        return error.failure.reason == "PackingLeaks"
    return False


@pytest.mark.parametrize("adapter", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32], ids=str)
def test_the_real_model_isolates_and_without_its_mask_is_found(precision: torch.dtype, adapter: bool) -> None:
    model = loaded(precision, adapter=adapter)
    assert not [seed for seed in range(SEEDS) if leaks(model, seed)]
    take_the_mask_away(model.get_base_model() if adapter else model)
    assert not [seed for seed in range(SEEDS) if not leaks(model, seed)]
