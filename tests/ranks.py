"""Real ranks without Ray: `worker.train` in processes of their own (zygote.py forks them), over gloo.

In: a list of `Case`s (a spec and a run's folder each). Out: each case's events and the ids of the rows that each step
used. The cases share the processes, because importing torch and DeepSpeed takes longer than training a tiny model.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_training.checkpoint.lineage import inherit
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.failure import Failure, FinetuneError, classify
from finetune_training.contract.spec import Job
from finetune_training.data.shards import SCHEMA, DataManifest, Histogram, Statistics, write_shard
from finetune_training.events.progress import Evaluated, Report, Step, Trained
from finetune_training.store.storage import Store
from tests.kills import Kill, record_rows, set_up
from tests.zygote import run_forked

_DEADLINE = 600


@dataclass(frozen=True)
class Case:
    """One attempt of one run. `store`: its folder or URI. `stop_after`: the step after which the driver asks to stop."""

    job: Job
    store: Path | str
    data: DataManifest
    attempt: int = 1
    stop_after: int | None = None
    kill: Kill | None = None


@dataclass
class Outcome:
    """What came of a case. `rows`: for each micro batch of each rank, the ids of its rows."""

    events: list[Report] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def steps(self) -> list[Step]:
        return [event for event in self.events if isinstance(event, Step)]

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.steps]

    @property
    def held_out(self) -> list[float]:
        return [event.loss for event in self.events if isinstance(event, Evaluated)]

    @property
    def trained(self) -> Trained:
        return next(event for event in self.events if isinstance(event, Trained))


def make_data(folder: Path, *, samples: int, validation: int, max_length: int = 64, seed: int = 0) -> DataManifest:
    """Packed samples of random tokens, three documents each, a third of the tokens not supervised."""
    random = np.random.default_rng(seed)
    data = folder / "data" / f"random-{seed}"
    data.mkdir(parents=True, exist_ok=True)
    rows = [_sample(random, index) for index in range(samples + validation)]
    train = write_shard(pa.Table.from_pylist(rows[:samples], schema=SCHEMA), data / "train-00000.arrow")
    held_out = [write_shard(pa.Table.from_pylist(rows[samples:], schema=SCHEMA), data / "validation-00000.arrow")]
    statistics = Statistics(
        rows=3 * len(rows), dropped={}, truncated=0, split=0, tokens=train.tokens, supervised_tokens=train.supervised_tokens,
        useful_token_ratio=train.tokens / (samples * max_length), lengths=Histogram([1, max_length + 1], [3 * len(rows)]),
    )  # fmt: skip
    return DataManifest(data.name, max_length, [train], held_out if validation else [], statistics)


def run_ranks(cases: list[Case], *, ranks: int, folder: Path) -> list[Outcome]:
    """Train the cases one after the other on `ranks` processes."""
    codes = start_ranks(cases, ranks=ranks, folder=folder)
    logs = "\n".join((folder / f"rank-{rank}.log").read_text()[-3000:] for rank in range(ranks))
    assert codes == [0] * ranks, f"ranks ended with {codes}:\n{logs}"
    return _merge([pickle.loads((folder / f"outcome-{rank}.pickle").read_bytes()) for rank in range(ranks)])


def start_ranks(cases: list[Case], *, ranks: int, folder: Path) -> list[int]:
    """The same for ranks that may die: their exit codes, negative for signals."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.pickle").write_bytes(pickle.dumps(cases))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return run_forked(folder, ranks=ranks, environment=environment, deadline=_DEADLINE)


def _merge(by_rank: list[list[Outcome]]) -> list[Outcome]:
    """Rank 0's events, everyone's rows."""
    merged = []
    for outcomes in zip(*by_rank, strict=True):
        rows = [row for outcome in outcomes for row in outcome.rows]
        failure = next((outcome.failure for outcome in outcomes if outcome.failure), None)
        merged.append(Outcome(outcomes[0].events, rows, failure))
    return merged


def _sample(random: np.random.Generator, index: int) -> dict[str, Any]:
    lengths = [int(length) for length in random.integers(5, 21, 3)]
    tokens = random.integers(1, 500, sum(lengths))
    labels = np.where(random.random(len(tokens)) < 1 / 3, -100, tokens)
    labels[np.cumsum([0, *lengths[:-1]])] = -100
    ids = [3 * index + document for document in range(3)]
    return {"input_ids": tokens, "labels": labels, "seq_lengths": lengths, "row_ids": ids}


def main(folder: Path) -> None:
    """One rank."""
    from accelerate.state import AcceleratorState, PartialState

    from finetune_training.worker.objective import ExactSFTTrainer
    from finetune_training.worker.task import Context, Task
    from finetune_training.worker.worker import train

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    outcomes: list[Outcome] = []
    collate = ExactSFTTrainer.collate

    def recording(self: Any, dataset: Any, indices: list[int]) -> Any:
        if dataset is self.train_dataset:
            rows = [int(row) for index in indices if index >= 0 for row in dataset[index]["row_ids"]]
            outcomes[-1].rows.append(rows)
            record_rows(folder, rank, rows)
        return collate(self, dataset, indices)

    ExactSFTTrainer.collate = recording  # type: ignore[method-assign]
    for number, case in enumerate(pickle.loads((folder / "cases.pickle").read_bytes())):
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        outcome = Outcome()
        outcomes.append(outcome)
        if case.kill:
            set_up(case.kill, rank, folder)

        def report(event: Report, case: Case = case, outcome: Outcome = outcome) -> bool:
            outcome.events.append(event)
            return isinstance(event, Step) and event.step == case.stop_after

        task = Task(
            job=case.job,
            base=case.job.spec.model,
            turn=Turn(case.attempt),
            inherited=inherit(Store(str(case.store)), Turn(case.attempt)),
            store=Store(str(case.store)),
            data=case.data,
            ranks=size,
            on_gpu=False,
            staging=folder / f"staging-{number}",
            versions={},
        )
        try:
            train(task, Context(rank, size, rank, report))
        except FinetuneError as error:
            outcome.failure = classify(error, rank=rank)
    (folder / f"outcome-{rank}.pickle").write_bytes(pickle.dumps(outcomes))
    print(json.dumps([outcome.losses for outcome in outcomes]))
