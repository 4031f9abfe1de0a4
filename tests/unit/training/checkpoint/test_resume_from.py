"""Beginning where another run was: with everything, with its weights, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_training.checkpoint.manifest import Reached
from finetune_training.checkpoint.resume_from import Elsewhere, begin_with, resume_from
from finetune_training.checkpoint.run_folder import remember
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.contract.spec import Job
from finetune_training.events.progress import Warned
from tests.checkpoints import BASELINE, FACTS, Alone, Run

WEIGHTS = {"one.weight": torch.arange(6.0).reshape(2, 3), "two.weight": torch.ones(3)}
MODEL_STATES = "global_step/mp_rank_00_model_states.pt"


def job(uri: str = "", **changes: Any) -> Job:
    spec = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "checkpoint": {"resumeFrom": {"uri": uri}}}
    return Job.model_validate({"name": "run", "spec": {**spec, **changes}})


def writing(weights: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "global_step").mkdir()
        torch.save({"module": weights}, folder / MODEL_STATES)

    return write


@pytest.fixture
def other(tmp_path: Path) -> Run:
    """Another run, with steps 5 and 10."""
    run = Run(tmp_path / "other")
    remember(run.store, job(), "yaml")
    checkpointer = run.checkpointer()
    for step in (5, 10):
        reached = Reached(step=step, samples=step, epoch=1, metrics={}, baseline=BASELINE)
        checkpointer.save(writing({name: weight + step for name, weight in WEIGHTS.items()}), reached)
        checkpointer.flush()
    run.events.clear()
    return run


def begin(run: Run, uri: str, *, spec: dict[str, Any] | None = None, **facts: Any) -> Elsewhere | None:
    return resume_from(
        job(uri, **(spec or {})).spec,
        facts=FACTS.model_copy(update=facts),
        world=Alone(),
        cache=run.folder / "cache",
        report=run.events.append,
    )


def model(*, rows: int = 2, more: bool = False) -> torch.nn.Module:
    made: dict[str, torch.nn.Module] = {"one": torch.nn.Linear(3, rows, bias=False), "two": torch.nn.RMSNorm(3)}
    return torch.nn.ModuleDict(made | ({"three": torch.nn.RMSNorm(3)} if more else {}))


def test_a_run_that_names_no_checkpoint_begins_with_the_base_model(other: Run) -> None:
    assert begin(other, "") is None


@pytest.mark.parametrize(("below", "step"), [("", 10), ("/", 10), ("/checkpoints/step-00000005-a1", 5)])
def test_a_checkpoint_of_the_same_run_goes_on_with_everything(other: Run, below: str, step: int) -> None:
    found = begin(other, other.store.uri + below)
    assert found is not None
    assert found.restored is not None
    assert found.restored.manifest.step == step
    assert other.events == []
    begin_with(found, model(), Alone())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_fingerprint": "e"}, "data fingerprint (d instead of e)"),
        ({"seed": 2, "global_batch_size": 8}, "seed (1 instead of 2), global batch size (4 instead of 8)"),
        ({"zero_stage": 3}, "ZeRO stage (2 instead of 3)"),
        ({"spec": {"training": {"learningRate": 0.5}}}, "training.learningRate (2e-05 instead of 0.5)"),
        ({"spec": {"training": {"precision": "FP32"}}}, "training.precision (BF16 instead of FP32)"),
    ],
)
def test_a_checkpoint_of_a_run_that_differs_gives_only_its_weights_and_says_so(
    other: Run, changes: dict[str, Any], said: str
) -> None:
    found = begin(other, other.store.uri, **changes)
    assert found is not None
    assert found.restored is None
    (event,) = other.events
    assert isinstance(event, Warned)
    assert "step 0" in event.message
    assert f"{other.store.uri}/checkpoints/step-00000010-a1 (step 10)" in event.message
    assert said in event.message
    tuned = model()
    begin_with(found, tuned, Alone())
    assert torch.equal(tuned.state_dict()["one.weight"], WEIGHTS["one.weight"] + 10)
    assert torch.equal(tuned.state_dict()["two.weight"], WEIGHTS["two.weight"] + 10)


@pytest.mark.parametrize("changes", [{}, {"seed": 2}])
def test_a_damaged_checkpoint_is_passed_over_unless_it_is_the_one_that_is_named(
    other: Run, changes: dict[str, Any]
) -> None:
    path = other.path("step-00000010-a1") / MODEL_STATES
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    found = begin(other, other.store.uri, **changes)
    assert found is not None
    assert found.name == "step-00000005-a1"
    assert MODEL_STATES in str(other.events[0])
    with pytest.raises(FinetuneError) as raised:
        begin(other, f"{other.store.uri}/checkpoints/step-00000010-a1", **changes)
    assert raised.value.failure.cls is FailureClass.DATA
    assert raised.value.failure.reason == "CheckpointDamaged"


@pytest.mark.parametrize("below", ["/nowhere", "/checkpoints/step-00000007-a1", "/checkpoints"])
def test_a_place_without_a_checkpoint_is_named(other: Run, below: str) -> None:
    with pytest.raises(FinetuneError) as raised:
        begin(other, other.store.uri + below)
    assert raised.value.failure.reason == "CheckpointNotFound"
    assert below in raised.value.failure.message


@pytest.mark.parametrize(
    "changes", [{"method": "Full"}, {"spec": {"method": {"lora": {"alpha": 64}}}}, {"method": "Full", "seed": 2}]
)
def test_a_checkpoint_of_another_method_is_refused(other: Run, changes: dict[str, Any]) -> None:
    with pytest.raises(FinetuneError) as raised:
        begin(other, other.store.uri, **changes)
    assert raised.value.failure.reason == "CheckpointDoesNotFit"
    assert "--merged" in raised.value.failure.remedy


@pytest.mark.parametrize("changes", [{}, {"seed": 2}])
def test_weights_of_another_shape_are_refused(other: Run, changes: dict[str, Any]) -> None:
    found = begin(other, other.store.uri, **changes)
    assert found is not None
    for wrong, said in (
        (model(rows=4), "in another shape 1 of 2 parameters, such as one.weight (2×3, here 4×3)"),
        (torch.nn.ModuleDict({"one": torch.nn.Linear(3, 2, bias=False)}), "does not have"),
        (
            model(more=True),
            "lacks 1 of 3 parameters, such as three.weight",
        ),
    ):
        with pytest.raises(FinetuneError) as raised:
            begin_with(found, wrong, Alone())
        assert raised.value.failure.reason == "CheckpointDoesNotFit"
        assert said in raised.value.failure.message


def test_an_empty_weight_is_a_missing_weight(other: Run) -> None:
    from finetune_training.checkpoint.weights import trained_only

    emptied = {**WEIGHTS, "two.weight": torch.empty(0)}
    with pytest.raises(FinetuneError) as raised:
        trained_only(model(), emptied, name="step-00000010-a1")
    assert "lacks 1 of 2 parameters, such as two.weight" in raised.value.failure.message


def test_without_the_other_runs_spec_its_facts_decide_alone(other: Run) -> None:
    other.store.delete(["spec.json"])
    found = begin(other, other.store.uri, spec={"training": {"learningRate": 0.5}})
    assert found is not None
    assert found.restored is not None
