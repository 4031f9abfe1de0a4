"""The trainer's arguments: what the user may add, and what stays ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.batch import batch_of
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.model.engine import deepspeed_config
from finetune_training.worker.objective import sft_config


def config(folder: Path, extra: dict[str, Any], **changes: Any) -> Any:
    spec = RunSpec.model_validate(
        {
            "model": {"uri": "m"},
            "dataset": {"train": [{"uri": "d"}]},
            "training": {"globalBatchSize": 4, "extra": extra},
            **changes,
        }
    )
    deepspeed = deepspeed_config(spec, ranks=1, on_gpu=False)
    return sft_config(spec, batch_of(spec, ranks=1), steps=3, deepspeed=deepspeed, on_gpu=False, folder=folder)


def message(folder: Path, extra: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(FinetuneError) as raised:
        config(folder, extra, **changes)
    failure = raised.value.failure
    assert (failure.cls.value, failure.reason) == ("User", "InvalidExtra")
    return f"{failure.message} {failure.remedy}"


@pytest.mark.parametrize(
    "name", ["learning_rate", "logging_strategy", "auto_find_batch_size", "eval_on_start", "fp16", "hub_token"]
)
def test_what_the_run_decides_cannot_be_set_aside(name: str, tmp_path: Path) -> None:
    assert f"spec.training.extra.{name}" in message(tmp_path, {name: "x"})


def test_an_unknown_argument_is_answered_with_the_nearest(tmp_path: Path) -> None:
    assert "Did you mean weight_decay?" in message(tmp_path, {"weight_decai": 0.1})


@pytest.mark.parametrize("extra", [{"max_grad_norm": "much"}, {"optim": "no_such_optimizer"}])
def test_a_value_that_cannot_be_used_is_the_users(extra: dict[str, Any], tmp_path: Path) -> None:
    assert "spec.training.extra" in message(tmp_path, extra)


def test_numbers_are_numbers_in_every_dialect() -> None:
    spec = RunSpec.model_validate(
        {
            "model": {"uri": "m"},
            "dataset": {"train": [{"uri": "d"}]},
            "training": {"extra": {"max_grad_norm": "5e-1", "adam_epsilon": "1e-6"}},
            "deepspeed": {"stage": 2, "offload": "Optimizer"},
        }
    )
    generated = deepspeed_config(spec, ranks=1, on_gpu=False)
    assert generated["gradient_clipping"] == 0.5
