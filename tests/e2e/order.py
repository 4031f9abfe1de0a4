"""Which rows each step of a job has to learn from, by what it has prepared and the order that is promised.

In: the job's folder in the bucket. Out: a checksum of rows for each step, as metrics.jsonl has them. Computed here from the
shards, not taken from another run.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from finetune_training.data.shards import DataManifest
from finetune_training.worker.position import EMPTY, Plan
from finetune_training.worker.steps import checksum
from tests.e2e.faults.trial import Trial


def expected(trial: Trial, *, global_batch_size: int, seed: int = 42) -> dict[int, str]:
    """Of one epoch, in which every row comes once."""
    (key,) = [key for key in trial.keys("data/") if key.endswith("/manifest.json")]
    manifest = DataManifest.from_json(trial.bytes(key))
    folder = key.rpartition("/")[0]
    shards = [pa.ipc.open_stream(trial.bytes(f"{folder}/{shard.file}")).read_all() for shard in manifest.train]
    rows: list[list[int]] = pa.concat_tables(shards).column("row_ids").to_pylist()
    _check_once(rows)
    plan = Plan.of(samples=len(rows), global_batch_size=global_batch_size, seed=seed, epochs=1, max_steps=0)
    return {
        step + 1: checksum(rows[sample] for sample in plan.step(step) if sample != EMPTY) for step in range(plan.steps)
    }


def _check_once(rows: list[list[int]]) -> None:
    """No row in two samples: a row that was split is in several, but short lines are not."""
    twice = [row for row, times in Counter(row for sample in rows for row in sample).items() if times > 1]
    assert not twice, twice[:10]
