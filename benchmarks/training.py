"""How fast a run trains: ours, a plain TRL script with the same settings, and the padded classic recipe, in one go on
one machine.

In: the demo's job, model and texts (`make assets`), or another job's. Out: a table, and `training.json` in the folder of
the results. The three take turns, twice, so that a machine that slows down slows all of them; of each the median step
counts, the first three of every turn left out. On a GPU (bf16) it also prints MFU.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.plain_trl import Settings
from benchmarks.waiting import Failed, end_of, gave_up, told
from finetune_training.checkpoint.run_folder import RESULT
from finetune_training.driver.attempt import METRICS
from finetune_training.events.progress import Step

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
EXAMPLE = ROOT / "examples" / "shakespeare.yaml"
WARM_UP = 3
OURS, PLAIN, PADDED = "finetune run", "plain TRL", "padded recipe"
_START_SECONDS, _STEP_SECONDS = 600, 60
"""The most for a turn up to its first step, and for each step."""


@dataclass(frozen=True)
class Turn:
    """One turn of one contestant: seconds and useful tokens of each step, and seconds from the command to the first
    step."""

    steps: list[tuple[float, int]]
    seconds_to_first_step: float

    @property
    def rates(self) -> list[float]:
        return [tokens / seconds for seconds, tokens in self.steps[WARM_UP:]]


@dataclass(frozen=True)
class Place:
    """The job that is compared, and the folder for all that comes of it."""

    job: dict[str, Any]
    output: Path

    @property
    def run(self) -> Path:
        """The folder of our run."""
        return self.output / "runs" / str(self.job["metadata"]["name"])


def main() -> None:
    options = _arguments()
    place = _place(options)
    turns: dict[str, list[Turn]] = {OURS: [], PLAIN: [], PADDED: []}
    for number in range(options.turns):
        for name, contestant in ((OURS, _ours), (PLAIN, _plain), (PADDED, _padded)):
            print(f"turn {number + 1}/{options.turns}: {name}", file=sys.stderr, flush=True)
            turns[name].append(contestant(place))
    report = _report(place, turns)
    (place.output / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    _show(report)


def _place(options: argparse.Namespace) -> Place:
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output / "runs", ignore_errors=True)
    (output / "log").unlink(missing_ok=True)
    job = yaml.safe_load(options.job.read_text())
    job["spec"]["training"]["maxSteps"] = options.steps
    job["spec"]["evaluation"] = {"everySteps": 0, "baseline": False}
    job["spec"]["output"] = []
    job["spec"]["checkpoint"] = {"uri": str(output / "runs"), "everySteps": 0}
    job["metadata"]["name"] = "bench"
    return Place(job, output)


def _ours(place: Place) -> Turn:
    path = place.output / "job.yaml"
    path.write_text(yaml.safe_dump(place.job))
    began = time.time()
    _run(OURS, ["finetune", "run", str(path), "--fresh"], place)
    (metrics,) = (place.run / "attempts").glob(f"*/{METRICS}")
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [event for event in events if event["event"] == Step.__name__]
    first = steps[0]["time"] - steps[0]["seconds"] - began
    return Turn([(step["seconds"], step["tokens"]) for step in steps], first)


def _plain(place: Place) -> Turn:
    return _script(PLAIN, place, padded_length=0)


def _padded(place: Place) -> Turn:
    """Each line padded to 512."""
    return _script(PADDED, place, padded_length=512)


def settings(place: Place, *, padded_length: int) -> Settings:
    """The job's numbers for the peers' script."""
    spec, training = place.job["spec"], place.job["spec"]["training"]
    texts = sorted(glob.glob(str(ROOT / spec["dataset"]["train"][0]["uri"]), recursive=True))
    return Settings(
        model=str(ROOT / spec["model"]["uri"]),
        texts=texts,
        steps=training["maxSteps"],
        max_length=spec["dataset"]["maxLength"],
        micro_batch_size=training["microBatchSize"],
        gradient_accumulation_steps=training["globalBatchSize"] // training["microBatchSize"],
        learning_rate=float(training["learningRate"]),
        lora_rank=spec["method"]["lora"]["rank"],
        lora_alpha=spec["method"]["lora"]["alpha"],
        padded_length=padded_length,
        output=str(place.output / "plain"),
    )


def _script(name: str, place: Place, *, padded_length: int) -> Turn:
    its, began = settings(place, padded_length=padded_length), time.time()
    script = [sys.executable, str(ROOT / "benchmarks" / "plain_trl.py"), json.dumps(asdict(its))]
    found = json.loads(_run(name, script, place).strip().splitlines()[-1])
    return Turn([(seconds, tokens) for seconds, tokens in found["steps"]], found["first_step"] - began)


def _run(name: str, command: list[str], place: Place) -> str:
    """Its standard output; its noise goes to a log. Raises Failed."""
    steps, log = place.job["spec"]["training"]["maxSteps"], place.output / "log"
    limit = _START_SECONDS + _STEP_SECONDS * steps
    with log.open("a") as noise:
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=noise, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            raise gave_up(f"{steps} steps of {name}", limit, end_of(log)) from None
    if done.returncode:
        raise Failed(f"{name} has ended with {done.returncode}: {done.stdout[-2000:]} {end_of(log)}")
    return done.stdout


def _report(place: Place, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    rates = {name: median(rate for turn in its for rate in turn.rates) for name, its in turns.items()}
    job, result = place.job, json.loads((place.run / RESULT).read_text())
    report = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine(), "gpu": _gpu()},
        "job": job["spec"],
        "usefulTokensPerSecond": {name: round(rate, 1) for name, rate in rates.items()},
        "oursToPlain": round(rates[OURS] / rates[PLAIN], 4),
        "oursToPadded": round(rates[OURS] / rates[PADDED], 2),
        "usefulTokenRatio": result["usefulTokenRatio"],
        "secondsToFirstStep": {name: round(its[0].seconds_to_first_step, 1) for name, its in turns.items()},
        "turns": {name: [asdict(turn) for turn in its] for name, its in turns.items()},
    }
    return {**report, "mfuPercent": {name: _mfu(job, rate) for name, rate in rates.items() if name != PADDED}}


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _mfu(job: dict[str, Any], rate: float) -> float | None:
    """Model FLOPs utilisation by TRL's count (forward and twice that backward); None without a GPU that it knows."""
    from transformers import AutoConfig
    from trl.trainer.utils import compute_flops_per_token, compute_mfu, get_peak_flops

    name = _gpu()
    peak = get_peak_flops(name, "bfloat16") if name else None
    if not peak:
        return None
    flops = compute_flops_per_token(
        AutoConfig.from_pretrained(ROOT / job["spec"]["model"]["uri"]), job["spec"]["dataset"]["maxLength"]
    )
    return round(float(compute_mfu(flops, rate, 1, peak)), 2)


def _show(report: dict[str, Any]) -> None:
    table = Table("", "useful tokens/s", "of plain TRL", "to first step")
    plain = report["usefulTokensPerSecond"][PLAIN]
    for name, rate in report["usefulTokensPerSecond"].items():
        table.add_row(name, f"{rate:,.1f}", f"{rate / plain:.1%}", f"{report['secondsToFirstStep'][name]:.1f} s")
    console = Console()
    console.print(table)
    console.print(
        f"useful-token ratio {report['usefulTokenRatio']:.3f}; {report['oursToPadded']:.1f} times the padded recipe"
    )
    for name, percent in report["mfuPercent"].items():
        if percent is not None:
            console.print(f"MFU {name}: {percent:.1f} %")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=_steps, default=10, help="optimizer steps in a turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--job", type=Path, default=EXAMPLE, help="job to compare (examples/shakespeare.yaml)")
    parser.add_argument("--output", type=Path, default=BUILD, help="folder for results and logs (build/bench)")
    return parser.parse_args()


def _steps(text: str) -> int:
    if (steps := int(text)) <= WARM_UP:
        raise argparse.ArgumentTypeError(f"{text}: the first {WARM_UP} of each turn do not count, so there are more")
    return steps


if __name__ == "__main__":
    with told("bench-training"):
        main()
