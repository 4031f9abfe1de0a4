"""The DeepSpeed config."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_training.contract.spec import RunSpec
from finetune_training.model.engine import deepspeed_config, merged


def spec(**changes: Any) -> RunSpec:
    return RunSpec.model_validate({"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, **changes})


def test_the_classic_case_offloads_to_pinned_host_memory() -> None:
    classic = spec(deepspeed={"stage": 3, "offload": "OptimizerAndParameters"})
    config = deepspeed_config(classic, ranks=32, on_gpu=True)
    assert config["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert config["train_batch_size"] == 64


def test_what_the_user_gives_wins_field_by_field() -> None:
    config = deepspeed_config(
        spec(deepspeed={"stage": 2, "config": {"zero_optimization": {"reduce_bucket_size": 7}}}), ranks=1, on_gpu=False
    )
    assert config["zero_optimization"]["reduce_bucket_size"] == 7
    assert config["zero_optimization"]["stage"] == 2


def test_merging_two_configurations_changes_neither() -> None:
    generated, given = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merged(generated, given) == {"a": {"b": 1, "c": 2}}
    assert (generated, given) == ({"a": {"b": 1}}, {"a": {"c": 2}})


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_accumulates_in_fp32_where_deepspeed_can(stage: int) -> None:
    config = deepspeed_config(spec(deepspeed={"stage": stage}), ranks=1, on_gpu=False)
    assert config["bf16"]["enabled"]
    assert ("data_types" in config) == (stage > 0)
