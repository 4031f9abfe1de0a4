"""What a checkpoint costs: ours beside Ray Train's stock synchronous report, a plain copy of the same bytes, and the time from
SIGKILL of a rank to the first new step.

Out: a table, and `checkpoint.json` in the folder of the results. What is saved is what a Full
BF16 run of 135 M parameters would save (270 MB of weights, and FP32 weights and Adam's two moments, half on each rank), to a real
S3 server on this machine. Medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint_bandwidth import Bandwidth, bandwidth
from benchmarks.checkpoint_blocked import RANKS, Blocked, blocked
from benchmarks.checkpoint_recovery import recovery
from benchmarks.waiting import told
from tests.servers.s3 import s3_server

BUILD = Path(__file__).parents[1] / "build" / "bench"


def main() -> None:
    options = _arguments()
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    size = {"parameters": options.parameters, "turns": options.turns}
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=output))
    try:
        with s3_server(folder) as server:
            os.environ |= server.environment()
            stands_still = blocked(server, **size, folder=folder)
            bytes_per_second = bandwidth(server, **size, folder=folder)
            recovers = recovery(_empty(folder / "recovery"))
    finally:
        shutil.rmtree(folder)
    _tell(options.parameters, stands_still, bytes_per_second, recovers)
    found = {
        "parameters": options.parameters,
        "blocked": asdict(stands_still),
        "bandwidth": asdict(bytes_per_second),
        "recovery": recovers,
        "machine": _machine(),
    }
    (output / "checkpoint.json").write_text(json.dumps(found, indent=2))


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tell(parameters: int, stands_still: Blocked, found: Bandwidth, recovers: dict[str, float]) -> None:
    size = f"{parameters / 1e6:g} M parameters, Full, BF16, {RANKS} ranks"
    table = Table(title=f"Checkpoints of {size}, to S3 on this machine")
    for column in ("", "ours", "stock or plain", "ratio", "expected"):
        table.add_column(column, justify="left" if not column else "right")
    ours, stock = median(stands_still.ours), median(stands_still.stock)
    table.add_row("training blocked, s", f"{ours:.2f}", f"{stock:.2f}", f"1/{stock / ours:.1f}", "1/20 or less")
    staging = median(stands_still.staging)
    table.add_row("  of it writing to local disk, s", f"{staging:.2f}", f"{staging:.2f}", "", "")
    for what, one, other, expected in (
        ("save", found.save, found.plain_save, "0.80 or more"),
        ("load", found.load, found.plain_load, ""),
    ):
        mine, plain = median(one), median(other)
        table.add_row(f"{what}, MB/s", f"{mine / 1e6:.0f}", f"{plain / 1e6:.0f}", f"{mine / plain:.2f}", expected)
    for part, seconds in recovers.items():
        table.add_row(f"recovery: {part}, s", f"{seconds:.1f}", "", "", "")
    Console().print(table)


def _machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine(), "time": time.time()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=_positive, default=3, help="saves that count, of each")
    parser.add_argument("--parameters", type=_positive, default=135_000_000, help="of the model whose state is saved")
    parser.add_argument("--output", type=Path, default=BUILD, help="folder for results and logs (build/bench)")
    return parser.parse_args()


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: it is 1 or more")
    return number


if __name__ == "__main__":
    with told("bench-checkpoint"):
        main()
