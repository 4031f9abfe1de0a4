from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_training.contract.batch import batch_of
from finetune_training.contract.spec import Job, Offload, RunSpec
from finetune_training.driver.ladder import Memory, difference, relieved


def asked(**training: Any) -> RunSpec:
    spec = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d.jsonl"}]}, "training": training}
    return Job.model_validate({"name": "run", "spec": spec}).spec


def descent(memory: Memory, *, batch: int, ranks: int, anew: bool) -> list[Memory]:
    """All steps down."""
    found = [memory]
    while (below := relieved(found[-1], global_batch_size=batch, ranks=ranks, anew=anew)) is not None:
        found.append(below)
    return found


def settings(memory: Memory) -> tuple[int, bool, int, str]:
    return (memory.micro_batch_size, memory.gradient_checkpointing, memory.stage, str(memory.offload))


ASKED = Memory(8, False, 0, Offload.NONE)


def test_the_ladder_goes_down_from_what_costs_least() -> None:
    found = descent(ASKED, batch=32, ranks=2, anew=True)
    assert [settings(each) for each in found] == [
        (8, False, 0, "None"),
        (4, False, 0, "None"),
        (2, False, 0, "None"),
        (1, False, 0, "None"),
        (1, True, 0, "None"),
        (1, True, 2, "None"),
        (1, True, 3, "None"),
        (1, True, 3, "Optimizer"),
        (1, True, 3, "OptimizerAndParameters"),
    ]
    assert [each.rung for each in found] == list(range(9))


def test_the_ladder_keeps_the_stage_where_there_is_a_checkpoint() -> None:
    last = descent(replace(ASKED, stage=2), batch=32, ranks=2, anew=False)[-1]
    assert settings(last) == (1, True, 2, "Optimizer")
    assert settings(descent(ASKED, batch=32, ranks=2, anew=False)[-1]) == (1, True, 0, "None")


def test_a_rank_alone_has_nobody_to_share_memory_with() -> None:
    assert settings(descent(ASKED, batch=32, ranks=1, anew=True)[-1]) == (1, True, 0, "None")


@pytest.mark.parametrize(
    ("micro", "batch", "ranks", "sizes"), [(6, 24, 2, [6, 3, 1]), (5, 10, 2, [5, 1]), (12, 12, 1, [12, 6, 3, 1])]
)
def test_every_micro_batch_divides_a_ranks_share(micro: int, batch: int, ranks: int, sizes: list[int]) -> None:
    found = descent(Memory(micro, True, 3, Offload.OPTIMIZER_AND_PARAMETERS), batch=batch, ranks=ranks, anew=False)
    assert [each.micro_batch_size for each in found] == sizes


def test_the_batch_that_is_learnt_from_stays() -> None:
    spec = asked(globalBatchSize=24, microBatchSize=6)
    for memory in descent(Memory.of(spec), batch=24, ranks=2, anew=True):
        batch = batch_of(memory.applied(spec), ranks=2)
        assert batch.gradient_accumulation_steps * batch.micro_batch_size * 2 == 24


def test_what_the_spec_asks_for_may_be_less_than_what_was_found() -> None:
    spec = asked(globalBatchSize=8, microBatchSize=1, gradientCheckpointing=True)
    applied = Memory(4, False, spec.deepspeed.stage, Offload.NONE, rung=1).applied(spec)
    assert (applied.training.micro_batch_size, applied.training.gradient_checkpointing) == (1, True)


def test_a_rung_survives_json_and_is_told_in_the_specs_words() -> None:
    below = Memory(4, True, 3, Offload.OPTIMIZER, rung=3, told=1)
    assert Memory.from_json(below.to_json()) == below
    assert difference(ASKED, below) == (
        "training.microBatchSize 8 -> 4, training.gradientCheckpointing false -> true, deepspeed.stage 0 -> 3, "
        "deepspeed.offload None -> Optimizer"
    )
    assert difference(below, replace(below, rung=4)) == ""
