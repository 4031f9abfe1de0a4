"""What libraries refuse is told as the field that it is about: a row for each, by the library itself where that is cheap."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.model.model import load_model
from finetune_training.model.refusals import REFUSALS, by_field, refusal
from tests.tiny import write_model


def spec(**changes: Any) -> RunSpec:
    return RunSpec.model_validate({"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, **changes})


def told(error: Exception, **changes: Any) -> str:
    found = refusal(error, spec(**changes))
    assert found is not None
    assert found.failure.cls == "User"
    return f"{found.failure.message} {found.failure.remedy}"


SAID = [
    ("transformers/modeling_utils.py", "does not support Flash Attention {flash_attn_version} yet", "model.attention"),
    ("transformers/modeling_utils.py", "does not support an attention implementation through torch", "model.attention"),
    ("transformers/modeling_utils.py", 'Specified `attn_implementation="{', "model.attention"),
    ("transformers/modeling_utils.py", "does not support activation checkpointing.", "training.gradientCheckpointing"),
    (
        "transformers/modeling_utils.py",
        "is not compatible with gradient checkpointing",
        "training.gradientCheckpointing",
    ),
    ("transformers/training_args.py", "Your setup doesn't support bf16/gpu.", "training.precision"),
    ("transformers/trainer_utils.py", "You cannot perform fine-tuning on purely quantized models.", "model.uri"),
    ("transformers/trainer_utils.py", "The model you are trying to fine-tune is quantized with", "model.uri"),
    (
        "trl/trainer/sft_trainer.py",
        "Applying a PEFT adapter to `lm_head` is not supported",
        "method.lora.targetModules",
    ),
    ("peft/tuners/tuners_utils.py", "No modules were targeted for adaptation.", "method.lora.targetModules"),
    ("peft/tuners/tuners_utils.py", "not found in the base model.", "method.lora.targetModules"),
    (
        "peft/tuners/lora/model.py",
        "is not supported. Currently, only the following modules",
        "method.lora.targetModules",
    ),
    ("transformers/utils/loading_report.py", "adding `ignore_mismatched_sizes=True`", "model.uri"),
    ("torch/nn/modules/sparse.py", "Padding_idx must be within num_embeddings", "model.uri"),
]
"""What the locked versions say, where, and the field below `spec` that it is about."""


@pytest.mark.parametrize(("file", "text", "field"), SAID, ids=[text[:40] for _, text, _ in SAID])
def test_what_a_library_says_is_told_as_its_field(file: str, text: str, field: str) -> None:
    package, _, path = file.partition("/")
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    assert text in (Path(found.origin).parent / path).read_text(encoding="utf-8"), "the library says it otherwise now"
    said = f"Target modules {text}" if text.startswith(("not found", "is not supported")) else text
    assert f"spec.{field} cannot be used: {said}" in told(ValueError(said))


def flash(folder: Path) -> None:
    load_model(folder, spec(model={"uri": "m", "attention": "FlashAttention2"}))


def other_shape(folder: Path) -> None:
    change(folder, vocab_size=600)
    load_model(folder, spec())


def padding_outside(folder: Path) -> None:
    change(folder, pad_token_id=512)
    load_model(folder, spec())


def no_embedding(_: Path) -> None:
    torch.nn.Embedding(4, 4)(torch.tensor([4]))


def seed(_: Path) -> None:
    np.random.seed(2**32)


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("provoke", "field"),
    [
        (flash, "model.attention"),
        (other_shape, "model.uri"),
        (padding_outside, "model.uri"),
        (no_embedding, "model.uri"),
        (seed, "training.seed"),
    ],
)
def test_what_a_library_raises_is_a_users_error(provoke: Callable[[Path], None], field: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    with pytest.raises(FinetuneError) as raised, by_field(spec()):
        provoke(folder)
    assert (raised.value.failure.cls, raised.value.failure.reason) == ("User", "FieldRefused")
    assert f"spec.{field} cannot be used" in raised.value.failure.message
    assert raised.value.failure.remedy


def test_each_row_of_the_table_has_a_test() -> None:
    said = [f"Target modules {text}" for _, text, _ in SAID] + [text for _, text, _ in SAID]
    said += ["index out of range in self", "Seed must be between 0 and 2**32 - 1"]
    assert [each.says for each in REFUSALS if not any(re.search(each.says, text) for text in said)] == []


@pytest.mark.parametrize(
    ("error", "changes", "field"),
    [
        (
            ValueError("Invalid `loss_type` foo passed."),
            {"training": {"extra": {"loss_type": "foo"}}},
            "training.extra.loss_type",
        ),
        (
            ValueError("The specified `eos_token` ('<x>') is not found in the vocabulary"),
            {"training": {"extra": {"eos_token": "<x>"}}},
            "training.extra.eos_token",
        ),
        (
            AssertionError("Micro batch sizes: train_batch_size is not equal to"),
            {"deepspeed": {"config": {"train_batch_size": 3}}},
            "deepspeed.config (train_batch_size)",
        ),
        (
            ValueError("1 validation error for DeepSpeedZeroConfig reduce_bucket_size Input should be"),
            {"deepspeed": {"config": {"zero_optimization": {"reduce_bucket_size": "x"}}}},
            "deepspeed.config (reduce_bucket_size)",
        ),
        (RuntimeError("ZeRO wants something"), {"deepspeed": {"config": {"foo": 1}}}, "deepspeed.config"),
    ],
)
def test_what_names_a_setting_of_the_user_is_about_it(error: Exception, changes: dict[str, Any], field: str) -> None:
    assert f"spec.{field} has a value that cannot be used" in told(error, **changes)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("anything else"),
        KeyError("loss"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("flash_attn"),
        ConnectionError("flash_attn"),
    ],
)
def test_what_is_about_no_field_stays_what_it_is(error: Exception) -> None:
    assert refusal(error, spec()) is None
    with pytest.raises(type(error)), by_field(spec()):
        raise error
