"""SIGKILL at thirty moments of a run on S3: of one rank or of all, while they stage, upload, commit, prune and load. The run
goes on and becomes the run that was never killed: the same rows, each once, and the same weights."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load

from finetune_training.checkpoint.lineage import committed
from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.spec import Job
from finetune_training.store.storage import Store
from tests.kills import Kill, events, recorded_rows
from tests.ranks import Case, make_data, start_ranks
from tests.tiny import write_model

RANKS, STEPS, BATCH = 2, 4, 4
# Ranks wait for each other most of the time.
_AT_ONCE = 3
WEIGHTS = "trained/merged/model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), "llama")


class Runs:
    """The same job, again and again, each time in a folder of its own."""

    def __init__(self, model: Path, prefix: str, folder: Path) -> None:
        spec = {
            "model": {"uri": str(model)},
            "dataset": {"train": [{"uri": "unused"}], "maxLength": 64},
            "method": {"type": "Full"},
            "training": {
                "globalBatchSize": BATCH, "maxSteps": STEPS, "learningRate": 5e-3, "precision": "FP32",
                "gradientCheckpointing": False,
            },
            "deepspeed": {"stage": 2},
            "checkpoint": {"everySteps": 1, "keep": 1},
        }  # fmt: skip
        self.job = Job.model_validate({"name": "killed", "spec": spec})
        self.prefix, self.folder = prefix, folder
        self.data = make_data(folder, samples=11, validation=0)

    def case(self, name: str) -> Case:
        """The first attempt, with the data where it expects it."""
        store = Store(f"{self.prefix}/{name}")
        for path in (self.folder / "data" / self.data.fingerprint).iterdir():
            store.upload(path, f"data/{self.data.fingerprint}/{path.name}")
        return Case(self.job, store.uri, self.data)

    def attempt(self, case: Case, number: int, kill: Kill | None) -> tuple[list[int], Path]:
        """Its ranks' exit codes, and where they left their traces."""
        folder = self.folder / f"{Path(str(case.store)).name}-{number}"
        Store(str(case.store)).create(f"attempts/{number}/claim", b"")
        return start_ranks([replace(case, attempt=number, kill=kill)], ranks=RANKS, folder=folder), folder


def rows_of(folder: Path, *, first: int, steps: range) -> Counter[int]:
    """The rows that an attempt which began at step `first` used in `steps`."""
    each = BATCH // RANKS
    found: Counter[int] = Counter()
    for rank in range(RANKS):
        for number, rows in enumerate(recorded_rows(folder, rank)):
            if first + number // each in steps:
                found.update(rows)
    return found


def resumed_step(store: Store, number: int) -> int:
    """Where an attempt began, by what it inherited."""
    names = committed(store, before=Turn(number))
    return int(names[0].split("-")[1]) if names else 0


def spread(total: int, points: int) -> list[int]:
    """Numbers of events, evenly from the first to the last."""
    return [1 + (total - 1) * place // (points - 1) for place in range(points)]


@pytest.mark.timeout(1200)  # thirty are some seventy attempts
@pytest.mark.parametrize("every", [pytest.param(1, id="thirty", marks=pytest.mark.slow), pytest.param(5, id="six")])
def test_a_run_killed_at_any_moment_becomes_the_run_that_never_was_killed(
    model: Path, s3_prefix: str, tmp_path: Path, every: int
) -> None:
    runs = Runs(model, s3_prefix, tmp_path)
    whole = runs.case("whole")
    codes, folder = runs.attempt(whole, 1, Kill(0, 0))
    assert codes == [0] * RANKS, (folder / "rank-0.log").read_text()[-3000:]
    expected = Store(str(whole.store)).get(WEIGHTS)
    assert expected
    all_rows = rows_of(folder, first=0, steps=range(STEPS))
    done = [len(events(folder, rank)) for rank in range(RANKS)]
    kills = [Kill(0, event) for event in spread(done[0], 14)]
    kills += [Kill(1, event) for event in spread(done[1], 6)]
    kills += [Kill(0, event, all_ranks=True) for event in spread(done[0] - 3, 4)]
    points: list[tuple[Kill, list[Kill]]] = [(kill, []) for kill in kills]
    loading = [*(Kill(0, event) for event in (3, 9, 14, 20)), Kill(1, 2), Kill(1, 6)]
    points += [(Kill(0, done[0] // 2), [kill]) for kill in loading]
    points = points[2::every] if every > 1 else points

    def killed(number: int) -> str:
        kill, more = points[number]
        return _killed(runs, runs.case(f"killed-{number}"), kill, more, expected, all_rows)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        seen = Counter(pool.map(killed, range(len(points))))
    assert sum(seen.values()) == 30 // every
    print(dict(seen))


def _killed(runs: Runs, case: Case, kill: Kill, more: list[Kill], expected: bytes, all_rows: Counter[int]) -> str:
    """Kill attempts of one run and let the next ones go on, until one is done. Returns at what the first was killed."""
    store = Store(str(case.store))
    used: Counter[int] = Counter()
    before: tuple[Path, int] | None = None
    for number, each in enumerate([kill, *more, None], start=1):
        begins = resumed_step(store, number)
        if before:
            used += rows_of(before[0], first=before[1], steps=range(begins))
        codes, folder = runs.attempt(case, number, each)
        if each:
            assert -9 in codes, (each, codes)
            assert (0 if each.all_ranks else codes[each.rank]) in (0, -9)
        before = (folder, begins)
    assert codes == [0] * RANKS, (kill, (folder / "rank-0.log").read_text()[-3000:])
    used += rows_of(folder, first=begins, steps=range(STEPS))
    assert used == all_rows, kill
    weights, wanted = load(store.get(WEIGHTS) or b""), load(expected)
    assert all((weights[name] == value).all() for name, value in wanted.items()), kill
    first = runs.folder / f"{Path(str(case.store)).name}-1"
    return events(first, kill.rank)[-1]
