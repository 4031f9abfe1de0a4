"""The same run, cut differently: the result must not know how many ranks, which ZeRO stage or which micro batch made
it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_training.contract.spec import Job
from finetune_training.driver.ladder import Memory, relieved
from finetune_training.worker.steps import checksum
from tests.ranks import Case, Outcome, make_data, run_ranks
from tests.tiny import write_model

SAMPLES, STEPS, BATCH = 11, 7, 4
# Float32 sums in another order differ by about 1e-6; dropping one token, one sample or one rank's share changes 1e-3 or
# more.
TOLERANCE = 2e-5


def job(model: Path, *, method: str = "Full", stage: int = 0, micro: int = 1, **changes: Any) -> Job:
    training = {
        "globalBatchSize": BATCH,
        "microBatchSize": micro,
        "maxSteps": STEPS,
        "learningRate": 5e-3,
        "precision": "FP32",
    }
    spec = {
        "model": {"uri": str(model)},
        "dataset": {"train": [{"uri": "unused"}], "maxLength": 64},
        "method": {"type": method, "lora": {"rank": 4, "dropout": changes.pop("dropout", 0.0)}},
        "training": {**training, "gradientCheckpointing": False, **changes.pop("training", {})},
        "deepspeed": {"stage": stage, **changes.pop("deepspeed", {})},
        "checkpoint": {"everySteps": changes.pop("checkpoint_every", 0), "keep": 5},
    }
    return Job.model_validate({"name": "parity", "spec": spec})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def gptj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gptj"), "gptj")


def cases(jobs: list[Job], folder: Path) -> list[Case]:
    """Each job in a run's folder of its own."""
    return [
        Case(each, folder / str(number), make_data(folder / str(number), samples=SAMPLES, validation=4))
        for number, each in enumerate(jobs)
    ]


def cut(model: Path, method: str) -> list[Job]:
    """Every stage, with micro batches of 1 and 2, and the optimizer in host memory."""
    stages = [job(model, method=method, stage=stage, micro=1 + stage % 2) for stage in range(4)]
    offload = job(model, method=method, stage=2, deepspeed={"offload": "Optimizer"})
    return [*stages, job(model, method=method, micro=2), offload]


def weights(case: Case, name: str) -> dict[str, Any]:
    return dict(load_file(Path(case.store) / "trained" / name))


def agree(one: Outcome, other: Outcome) -> None:
    assert one.failure is None
    assert other.failure is None
    assert other.losses == pytest.approx(one.losses, abs=TOLERANCE)
    assert other.held_out == pytest.approx(one.held_out, abs=TOLERANCE)


@pytest.mark.parametrize("method", ["LoRA", pytest.param("Full", marks=pytest.mark.slow)])
def test_ranks_stages_and_micro_batches_do_not_change_the_loss(llama: Path, tmp_path: Path, method: str) -> None:
    alone = run_ranks(cases(cut(llama, method), tmp_path / "one"), ranks=1, folder=tmp_path / "rank-1")
    together = run_ranks(cases(cut(llama, method), tmp_path / "two"), ranks=2, folder=tmp_path / "rank-2")
    for outcome in [*alone, *together]:
        assert len(outcome.losses) == STEPS
        assert outcome.losses[-1] < outcome.losses[0] - 0.1
        agree(alone[0], outcome)


@pytest.mark.slow
def test_gptj_under_zero_3_with_offload_is_the_same_run(gptj: Path, tmp_path: Path) -> None:
    offload = {"offload": "OptimizerAndParameters"}
    plain = run_ranks(cases([job(gptj)], tmp_path / "one"), ranks=1, folder=tmp_path / "rank-1")
    offloaded = run_ranks(
        cases([job(gptj, stage=3, deepspeed=offload)], tmp_path / "two"), ranks=2, folder=tmp_path / "rank-2"
    )
    agree(plain[0], offloaded[0])


def test_each_row_is_used_once_per_epoch_whatever_the_number_of_ranks(llama: Path, tmp_path: Path) -> None:
    epochs = job(llama, training={"maxSteps": 0, "epochs": 2})
    checksums = []
    for ranks in (1, 2):
        (outcome,) = run_ranks(
            cases([epochs], tmp_path / f"of-{ranks}"), ranks=ranks, folder=tmp_path / f"rank-{ranks}"
        )
        assert outcome.trained.step == 6  # 22 samples in steps of 4: the last one has 2
        assert Counter(row for rows in outcome.rows for row in rows) == Counter(dict.fromkeys(range(3 * SAMPLES), 2))
        checksums.append([step.rows for step in outcome.steps])
        if ranks == 1:
            of_steps = [outcome.rows[first : first + BATCH] for first in range(0, len(outcome.rows), BATCH)]
            assert checksums[0] == [checksum(rows) for rows in of_steps]
    assert checksums[0] == checksums[1]
    assert len(set(checksums[0])) == 6


RESUMED = [
    ("Full", 0, "None", 2),
    ("LoRA", 2, "None", 2),
    ("Full", 3, "OptimizerAndParameters", 2),
]
ALSO_RESUMED = [
    *(("Full", stage, "None", 2) for stage in (1, 2, 3)),
    *(("LoRA", stage, "None", 2) for stage in (0, 1, 3)),
    ("Full", 0, "None", 1),
    ("Full", 2, "Optimizer", 2),
    ("LoRA", 1, "Optimizer", 2),
]


@pytest.mark.parametrize(
    ("method", "stage", "offload", "ranks"),
    [*RESUMED, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALSO_RESUMED)],
)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(
    llama: Path, tmp_path: Path, method: str, stage: int, offload: str, ranks: int
) -> None:
    the_job = job(llama, method=method, stage=stage, dropout=0.1, checkpoint_every=2, deepspeed={"offload": offload})
    whole, first = cases([the_job, the_job], tmp_path / "runs")
    first = Case(first.job, first.store, first.data, stop_after=3)
    second = Case(first.job, first.store, first.data, attempt=2)
    (Path(first.store) / "attempts" / "1").mkdir(parents=True)
    outcomes = run_ranks([whole, first, second], ranks=ranks, folder=tmp_path / "ranks")
    uninterrupted, before, after = outcomes
    assert before.trained.interrupted
    assert before.trained.step == 3
    assert before.losses + after.losses == uninterrupted.losses
    assert [step.rows for step in before.steps + after.steps] == [step.rows for step in uninterrupted.steps]
    assert Counter(map(tuple, before.rows + after.rows)) == Counter(map(tuple, uninterrupted.rows))
    name = "adapter/adapter_model.safetensors" if method == "LoRA" else "merged/model.safetensors"
    expected, resumed = weights(whole, name), weights(second, name)
    assert expected.keys() == resumed.keys()
    assert all((expected[key] == resumed[key]).all() for key in expected)
    assert any(value.abs().sum() > 0 for key, value in expected.items() if "lora_B" in key or method == "Full")
    assert method == "Full" or all("lora_" in key for key in _saved(whole)), (
        "a checkpoint of an adapter has weights of its base"
    )


def _saved(case: Case) -> set[str]:
    """The names of all weights in a run's checkpoints."""
    files = list(Path(case.store).glob("checkpoints/*/**/*model_states.pt"))
    assert files
    return {name for file in files for name in torch.load(file, weights_only=False)["module"] or {}}


@pytest.mark.parametrize(("method", "stage"), [("Full", 3), ("LoRA", 2)])
def test_a_run_that_takes_less_and_less_memory_is_the_same_run(
    llama: Path, tmp_path: Path, method: str, stage: int
) -> None:
    """Each rung of the ladder goes on from a checkpoint of the one above."""
    top = job(llama, method=method, stage=stage, micro=2, training={"maxSteps": 6})
    whole, first = cases([top, top], tmp_path / "runs")
    rungs = [Memory.of(top.spec)]
    while (below := relieved(rungs[-1], global_batch_size=BATCH, ranks=2, anew=False)) is not None:
        rungs.append(below)
    assert len(rungs) == (5 if stage == 3 else 4)
    attempts = [
        Case(
            top.model_copy(update={"spec": memory.applied(top.spec)}), first.store, first.data, attempt=number,
            stop_after=number if number < len(rungs) else None,
        )
        for number, memory in enumerate(rungs, start=1)
    ]  # fmt: skip
    expected, *outcomes = run_ranks([whole, *attempts], ranks=2, folder=tmp_path / "ranks")
    assert [outcome.failure for outcome in outcomes] == [None] * len(rungs)
    steps = [step for outcome in outcomes for step in outcome.steps]
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [step.loss for step in steps] == pytest.approx(expected.losses, abs=TOLERANCE)
    assert [step.rows for step in steps] == [step.rows for step in expected.steps]
