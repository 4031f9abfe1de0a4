"""What a checkpoint holds of a model, and how much that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_training.model.state import state_bytes, without_frozen
from tests.tiny import write_model


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """Its head is tied to its embeddings."""
    base = AutoModelForCausalLM.from_pretrained(write_model(tmp_path, "llama"), dtype=torch.bfloat16)
    assert base.config.tie_word_embeddings
    return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


def test_frozen_parameters_stay_out_under_all_of_their_names_and_only_in_the_block(model: Any) -> None:
    whole = set(model.state_dict())
    with without_frozen(model):
        kept = set(model.state_dict())
    assert kept == {name for name, each in model.named_parameters() if each.requires_grad}
    assert set(model.state_dict()) == whole
    assert any("lm_head" in name for name in whole)


@pytest.mark.parametrize(
    ("stage", "rank", "ranks", "bytes_each"),
    [(0, 0, 1, 2 + 12), (0, 1, 2, 12), (2, 0, 2, 2 + 6), (2, 1, 2, 6), (3, 0, 2, 6), (2, 1, 24, 0.5)],
)
def test_a_rank_writes_its_share_of_the_states_and_the_first_one_the_weights(
    model: Any, stage: int, rank: int, ranks: int, bytes_each: float
) -> None:
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    in_bf16 = model.to(torch.bfloat16)
    assert state_bytes(in_bf16, stage=stage, rank=rank, ranks=ranks) == int(trained * bytes_each)
