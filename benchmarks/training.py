"""How fast a run trains: ours, a plain TRL script with the same settings, and the padded classic recipe, in one go on
one machine.

In: the demo's model and texts (`make assets`). Out: a table, and `build/bench/training.json`. The three take turns,
twice, so that a machine that slows down slows all of them; of each the median step counts, the first three of every
turn left out. On a GPU (bf16) it also prints MFU.
"""

from __future__ import annotations

import argparse
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
from plain_trl import Settings
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
EXAMPLE = ROOT / "examples" / "shakespeare.yaml"
WARM_UP = 3
OURS, PLAIN, PADDED = "finetune run", "plain TRL", "padded recipe"


@dataclass(frozen=True)
class Turn:
    """One turn of one contestant: seconds and useful tokens of each step, and seconds from the command to the first
    step."""

    steps: list[tuple[float, int]]
    seconds_to_first_step: float

    @property
    def rates(self) -> list[float]:
        return [tokens / seconds for seconds, tokens in self.steps[WARM_UP:]]


def main() -> None:
    arguments = _arguments()
    BUILD.mkdir(parents=True, exist_ok=True)
    job = yaml.safe_load(EXAMPLE.read_text())
    job["spec"]["training"]["maxSteps"] = arguments.steps
    job["spec"]["evaluation"] = {"everySteps": 0, "baseline": False}
    job["spec"]["output"] = []
    job["spec"]["checkpoint"] = {"uri": str(BUILD / "runs"), "everySteps": 0}
    job["metadata"]["name"] = "bench"
    turns: dict[str, list[Turn]] = {OURS: [], PLAIN: [], PADDED: []}
    for number in range(arguments.turns):
        for name, contestant in ((OURS, _ours), (PLAIN, _plain), (PADDED, _padded)):
            print(f"turn {number + 1}/{arguments.turns}: {name}", file=sys.stderr, flush=True)
            turns[name].append(contestant(job))
    report = _report(job, turns)
    (BUILD / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    _show(report)


def _ours(job: dict[str, Any]) -> Turn:
    path = BUILD / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    began = time.time()
    _run(["finetune", "run", str(path), "--fresh"])
    (metrics,) = (BUILD / "runs" / "bench" / "attempts").glob("*/metrics.jsonl")
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [event for event in events if event["event"] == "Step"]
    first = steps[0]["time"] - steps[0]["seconds"] - began
    return Turn([(step["seconds"], step["tokens"]) for step in steps], first)


def _plain(job: dict[str, Any]) -> Turn:
    return _script(settings(job, padded_length=0))


def _padded(job: dict[str, Any]) -> Turn:
    """Each line padded to 512; fewer steps, because each is longer and holds little."""
    return _script(settings(job, padded_length=512))


def settings(job: dict[str, Any], *, padded_length: int) -> Settings:
    """The job's numbers for the peers' script."""
    spec, training = job["spec"], job["spec"]["training"]
    texts = sorted(str(path) for path in ROOT.glob(spec["dataset"]["train"][0]["uri"]))
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
    )


def _script(its: Settings) -> Turn:
    began = time.time()
    output = _run([sys.executable, str(ROOT / "benchmarks" / "plain_trl.py"), json.dumps(asdict(its))])
    found = json.loads(output.strip().splitlines()[-1])
    return Turn([(seconds, tokens) for seconds, tokens in found["steps"]], found["first_step"] - began)


def _run(command: list[str]) -> str:
    """Its standard output; its noise goes to a log."""
    with (BUILD / "log").open("a") as log:
        return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=log, text=True).stdout


def _report(job: dict[str, Any], turns: dict[str, list[Turn]]) -> dict[str, Any]:
    rates = {name: median(rate for turn in its for rate in turn.rates) for name, its in turns.items()}
    result = json.loads((BUILD / "runs" / "bench" / "result" / "metrics.json").read_text())
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps in a turn")
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    shutil.rmtree(BUILD / "runs", ignore_errors=True)
    return arguments


if __name__ == "__main__":
    main()
