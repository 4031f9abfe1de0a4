"""Every benchmark runs, by the target of its user: a few jobs, one turn, a tiny model. What it writes has figures that can be.

A benchmark that nobody runs breaks when what it measures changes, and nobody sees it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import write_model

ROOT = Path(__file__).parents[2]
JOBS, STEPS, PARAMETERS = 8, 6, 1_000_000
# Each gives up by itself and says what it waited for. This is for one that does not.
_SECONDS = 500
pytestmark = pytest.mark.timeout(600)  # half a minute each, on a machine that is not busy


def bench(name: str, output: Path, *arguments: str) -> dict[str, Any]:
    """What `make bench-<name>` writes. The examples' model and text are not made for it: nothing here uses them."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "RAY_"))}
    words = ["make", "--old-file=assets", f"bench-{name}", f"ARGS={' '.join([f'--output={output}', *arguments])}"]
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, said[-8000:]
    found: dict[str, Any] = json.loads((output / f"{name}.json").read_text())
    return found


def test_each_benchmark_is_run_here() -> None:
    targets = re.findall(r"^bench-(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [name for name in targets if f'bench("{name}"' not in Path(__file__).read_text()] == []
    assert targets


def test_the_benchmark_of_the_operator_counts_its_writes_and_measures_its_time(tmp_path: Path) -> None:
    report = bench("operator", tmp_path, f"--jobs {JOBS}")
    size = report["sizes"][str(JOBS)]
    start, running, restart = size["start"], size["running"], size["restart"]
    assert (start["writesOfJobs"], running["writesOfJobs"], restart["writes"]) == (3 * JOBS, 2 * JOBS, 0)
    assert size["writesByTheApiServer"] == start["writesOfJobs"] + running["writesOfJobs"]
    assert (running["refused"], restart["refused"]) == (0, 0)  # at the start, workers may make the same account
    assert restart["reconciles"] >= JOBS
    assert 20 < size["idleMegabytes"] <= size["peakMegabytes"] < 500
    for phase in (start, running, *size["floor"].values()):
        assert 0 < phase["seconds"] < 60
    assert 0 < start["cpuSeconds"] < 60
    by_count = {each["what"]: each["met"] for each in report["expectations"] if "writes" in each["what"]}
    assert by_count == {"writes per job up to Running, children included": True, "writes on restart": True}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The example's, with a model that trains in no time."""
    body = yaml.safe_load((ROOT / "examples" / "shakespeare.yaml").read_text())
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(3):
        lines = (f"The {each}th line of the {number}th play, which is all of it." for each in range(200))
        (texts / f"{number}.txt").write_text("\n".join(lines))
    body["spec"]["model"]["uri"] = str(write_model(tmp_path / "model", "llama"))
    source = {"uri": f"{texts}/*.txt", "sampleBy": "Document"}
    body["spec"]["dataset"] |= {"train": [source], "validation": {"fraction": 0}, "maxLength": 64}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


@pytest.mark.slow  # minutes, on two cores
def test_the_benchmark_of_training_compares_its_rate_with_plain_trl(tmp_path: Path, job: Path) -> None:
    report = bench("training", tmp_path / "out", f"--steps {STEPS} --turns 1 --job {job}")
    assert set(report["turns"]) == set(report["usefulTokensPerSecond"]) == set(report["secondsToFirstStep"])
    assert len(report["turns"]) == 3
    for (turn,) in report["turns"].values():
        assert len(turn["steps"]) == STEPS
        assert all(0 < seconds < 60 and tokens > 0 for seconds, tokens in turn["steps"])
        assert 0 < turn["seconds_to_first_step"] < 240
    rates = report["usefulTokensPerSecond"]
    assert all(rate > 0 for rate in rates.values())
    assert report["oursToPlain"] == pytest.approx(rates["finetune run"] / rates["plain TRL"], rel=0.01)
    assert 0.5 < report["usefulTokenRatio"] <= 1


@pytest.mark.slow  # minutes, on two cores
def test_the_benchmark_of_checkpoints_measures_blocking_bandwidth_and_recovery(tmp_path: Path) -> None:
    report = bench("checkpoint", tmp_path, f"--turns 1 --parameters {PARAMETERS}")
    assert report["parameters"] == PARAMETERS
    assert {len(seconds) for seconds in (*report["blocked"].values(), *report["bandwidth"].values())} == {1}
    (ours,), (stock,), (staging,) = (report["blocked"][name] for name in ("ours", "stock", "staging"))
    assert 0 < staging < stock < 60
    assert 0 < ours < 60
    assert all(1e5 < bytes_per_second < 1e11 for (bytes_per_second,) in report["bandwidth"].values())
    recovery = report["recovery"]
    assert all(seconds > 0 for seconds in recovery.values())
    assert sum(recovery.values()) == pytest.approx(2 * recovery["total"])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.json"]
