"""Batch arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_training.contract.batch import batch_of
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import RunSpec


def spec(**training: Any) -> RunSpec:
    return RunSpec.model_validate({"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "training": training})


@pytest.mark.parametrize(("ranks", "micro", "accumulation"), [(1, 1, 64), (8, 1, 8), (8, 4, 2), (32, 2, 1)])
def test_accumulation_follows_from_the_global_batch(ranks: int, micro: int, accumulation: int) -> None:
    batch = batch_of(spec(globalBatchSize=64, microBatchSize=micro), ranks=ranks)
    assert batch.gradient_accumulation_steps == accumulation
    assert batch.ranks * batch.micro_batch_size * accumulation == 64


@pytest.mark.parametrize(("total", "ranks", "fits"), [(10, 4, "8 or 12"), (2, 4, "(4)")])
def test_a_batch_that_cannot_be_cut_says_which_would_fit(total: int, ranks: int, fits: str) -> None:
    with pytest.raises(FinetuneError) as raised:
        batch_of(spec(globalBatchSize=total), ranks=ranks)
    assert raised.value.failure.reason == "BatchNotDivisible"
    assert fits in raised.value.failure.remedy
