"""A run that goes on with another number of ranks, 2 → 1 → 2 → 4, is the run that was never interrupted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from finetune_training.contract.spec import Job
from finetune_training.events.progress import Step
from tests.integration.test_parity import TOLERANCE, job
from tests.ranks import Case, Outcome, make_data, run_ranks
from tests.tiny import write_model

SAMPLES, STEPS = 11, 8
# Ranks of each attempt, and the step after which it is stopped.
ATTEMPTS = [(2, 2), (1, 4), (2, 6), (4, STEPS)]
# The second on one rank loads what was saved by a run that had itself been reshaped.
AGAIN = [(2, 2), (1, 3), (1, 4), (2, 6), (4, STEPS)]
OFFLOADED = [(2, 3), (1, STEPS)]


@dataclass(frozen=True)
class Cut:
    """One way to cut the same run."""

    method: str
    stage: int
    offload: str = "None"

    def __str__(self) -> str:
        return f"{self.method}-{self.stage}" + ("" if self.offload == "None" else f"-{self.offload}")

    @property
    def attempts(self) -> list[tuple[int, int]]:
        if self.offload != "None":
            return OFFLOADED
        return AGAIN if self.method == "Full" else ATTEMPTS

    @property
    def whole(self) -> Cut:
        """The uninterrupted run that it must equal."""
        return Cut(self.method, 0) if self.offload == "None" else Cut(self.method, 2, "Optimizer")

    def job(self, model: Path) -> Job:
        """Weight decay makes two groups of parameters with options of their own."""
        training: dict[str, Any] = {"maxSteps": STEPS, "warmupRatio": 0.25, "extra": {"weight_decay": 0.5}}
        deepspeed = {"offload": self.offload}
        return job(model, method=self.method, stage=self.stage, deepspeed=deepspeed, training=training)

    def weights(self, run: Path) -> dict[str, torch.Tensor]:
        name = "adapter/adapter_model.safetensors" if self.method == "LoRA" else "merged/model.safetensors"
        return dict(load_file(run / "trained" / name))


CUTS = [Cut("Full", 3), Cut("LoRA", 2)]
ALL_CUTS = [
    *(Cut(method, stage) for method in ("Full", "LoRA") for stage in range(4)),
    *(Cut("Full", stage, "Optimizer") for stage in (1, 2, 3)),
    Cut("LoRA", 2, "Optimizer"),
    *(Cut(method, 3, "OptimizerAndParameters") for method in ("Full", "LoRA")),
]


@dataclass
class Run:
    """All attempts of a run."""

    folder: Path
    outcomes: list[Outcome]

    @property
    def steps(self) -> list[Step]:
        return [step for outcome in self.outcomes for step in outcome.steps]

    @property
    def rows(self) -> Counter[int]:
        return Counter(row for outcome in self.outcomes for rows in outcome.rows for row in rows)


@dataclass(frozen=True)
class Runs:
    reshaped: dict[Cut, Run]
    whole: dict[Cut, Run]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Those that tests of this session want, in as few groups of processes as there are numbers of ranks to change between."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    cuts = [cast(Cut, item.callspec.params["cut"]) for item in here]
    folder = tmp_path_factory.mktemp("runs")
    model = write_model(folder / "llama", "llama")
    whole = {cut: Run(folder / f"whole-{cut}", []) for cut in dict.fromkeys(cut.whole for cut in cuts)}
    reshaped = {cut: Run(folder / str(cut), []) for cut in cuts}
    for group, ranks in enumerate((2, 1, 2, 4)):
        todo = [(run, _case(cut.job(model), run, 1)) for cut, run in whole.items()] if group == 0 else []
        for cut, run in reshaped.items():
            todo += [(run, _case(cut.job(model), run, *rest)) for number, *rest in _attempts(cut) if number == group]
        outcomes = run_ranks([case for _, case in todo], ranks=ranks, folder=folder / f"group-{group}")
        for (run, _), outcome in zip(todo, outcomes, strict=True):
            run.outcomes.append(outcome)
    return Runs(reshaped, whole)


def _attempts(cut: Cut) -> Iterator[tuple[int, int, int]]:
    """(group, attempt, step to stop after)"""
    group = -1
    before = 0
    for attempt, (ranks, stop_after) in enumerate(cut.attempts, start=1):
        group += ranks != before
        before = ranks
        yield group, attempt, stop_after


def _case(job: Job, run: Run, attempt: int, stop_after: int | None = None) -> Case:
    data = make_data(run.folder, samples=SAMPLES, validation=2)
    return Case(job, run.folder, data, attempt=attempt, stop_after=stop_after)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "cut", [pytest.param(cut, marks=() if cut in CUTS else pytest.mark.slow) for cut in ALL_CUTS], ids=str
)
def test_another_number_of_ranks_goes_on_with_the_same_run(runs: Runs, cut: Cut) -> None:
    run, whole = runs.reshaped[cut], runs.whole[cut.whole]
    assert [outcome.failure for outcome in run.outcomes] == [None] * len(cut.attempts)
    assert [outcome.trained.step for outcome in run.outcomes] == [step for _, step in cut.attempts]
    assert [step.loss for step in run.steps] == pytest.approx([step.loss for step in whole.steps], abs=TOLERANCE)
    assert [step.learning_rate for step in run.steps] == [step.learning_rate for step in whole.steps]
    assert [step.rows for step in run.steps] == [step.rows for step in whole.steps]
    assert run.outcomes[-1].held_out[-1] == pytest.approx(whole.outcomes[0].held_out[-1], abs=TOLERANCE)
    assert run.rows == whole.rows
    trained, expected = cut.weights(run.folder), cut.weights(whole.folder)
    assert expected.keys() - trained.keys() <= {"lm_head.weight"}  # tied: ZeRO-3 writes it once
    for name, value in trained.items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=0, msg=name)
