"""What a checkpoint costs: ours beside Ray Train's stock synchronous report, a plain copy of the same bytes, and the time from
SIGKILL of a rank to the first new step.

In: `weed` (`make test` builds it). Out: a table, and `build/bench/checkpoint.json`. Two Ray Train workers hold what a
Full BF16 run of 135 M parameters would save (270 MB of weights, and FP32 weights and Adam's two moments, half on each rank), and
save it in turns, ours and stock, to the same real S3 server on this machine. Between saves they do what costs nothing, so nothing
hides the server's own work. Medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import ray
from rich.console import Console
from rich.table import Table

from finetune_training.checkpoint import Checkpointer, Origin
from finetune_training.environment import set_up_ray
from finetune_training.manifest import CheckpointFile, Facts, Reached
from finetune_training.storage import Store, open_store
from finetune_training.upload import Uploader
from finetune_training.verified import fetch
from finetune_training.world import TorchWorld
from tests.cli import command, environment, write_job, write_rows
from tests.servers.s3 import S3Server, s3_server
from tests.tiny import write_model

BUILD = Path(__file__).parents[1] / "build" / "bench"
PARAMETERS, RANKS = 135_000_000, 2


@dataclass(frozen=True)
class Blocked:
    """Seconds for which training stood still, for each save; `staging`: writing the files, which is in both."""

    ours: list[float]
    stock: list[float]
    staging: list[float]


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second, for each turn."""

    save: list[float]
    plain_save: list[float]
    load: list[float]
    plain_load: list[float]


def main() -> None:
    options = _arguments()
    BUILD.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=BUILD))
    try:
        with s3_server(folder) as server:
            os.environ |= server.environment()
            blocked = _blocked(server, options.turns, folder)
            bandwidth = _bandwidth(server, options.turns, folder)
            recovery = _recovery(folder)
    finally:
        shutil.rmtree(folder)
    _tell(blocked, bandwidth, recovery)
    found = {"blocked": asdict(blocked), "bandwidth": asdict(bandwidth), "recovery": recovery, "machine": _machine()}
    (BUILD / "checkpoint.json").write_text(json.dumps(found, indent=2))


# ── blocked time ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _blocked(server: S3Server, turns: int, folder: Path) -> Blocked:
    set_up_ray()
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="local", num_cpus=RANKS + 1, include_dashboard=False, log_to_driver=False)
    out = folder / "blocked.json"
    try:
        TorchTrainer(
            _save_in_turns,
            train_loop_config={
                "uri": f"s3://{server.bucket}/ours",
                "turns": turns,
                "folder": str(folder),
                "out": str(out),
            },
            scaling_config=ScalingConfig(num_workers=RANKS),
            run_config=RunConfig(name="stock", storage_path=f"s3://{server.bucket}/stock"),
        ).fit()
    finally:
        ray.shutdown()
    return Blocked(**json.loads(out.read_text()))


def _save_in_turns(config: dict[str, Any]) -> None:
    """One rank: the first turn of each warms up and does not count."""
    from ray import train

    world, folder = TorchWorld.create(), Path(config["folder"])
    store = open_store(config["uri"])
    facts = Facts(
        attempt=1, world_size=RANKS, zero_stage=2, method="Full", seed=0, global_batch_size=1, data_fingerprint="", versions={}
    )  # fmt: skip
    checkpointer = Checkpointer(
        store, facts=facts, world=world, staging=folder / f"staging-{world.rank}", keep=1, origin=Origin([]),
        report=lambda _: None,
    )  # fmt: skip
    write = _writer(world.rank)
    found: dict[str, list[float]] = {"ours": [], "stock": [], "staging": []}
    for turn in range(1, config["turns"] + 2):
        before = checkpointer.blocked_seconds
        reached = Reached(step=turn, samples=turn, epoch=0, metrics={}, baseline=None)
        checkpointer.save(write, reached)
        polls = 0.0
        while checkpointer._pending:  # steps, each of a tenth of a second
            time.sleep(0.1)
            polls += _seconds(checkpointer.poll)
        ours = checkpointer.blocked_seconds - before + polls
        with tempfile.TemporaryDirectory(dir=folder) as local:
            staging = _seconds(lambda: write(Path(local)))
            checkpoint = train.Checkpoint.from_directory(local)
            stock = staging + _seconds(lambda: train.report({"turn": turn}, checkpoint=checkpoint))  # noqa: B023
        everyone = world.gather({"ours": ours, "stock": stock, "staging": staging})
        if turn > 1:
            for name, seconds in found.items():
                seconds.append(max(each[name] for each in everyone))
    if world.rank == 0:
        Path(config["out"]).write_text(json.dumps(found))


def _writer(rank: int) -> Callable[[Path], None]:
    """Writes what DeepSpeed writes at ZeRO-2, from memory."""
    import torch

    optimizer = torch.rand(3 * PARAMETERS // RANKS)
    weights = torch.rand(PARAMETERS, dtype=torch.bfloat16) if rank == 0 else None

    def write(folder: Path) -> None:
        torch.save(optimizer, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        if weights is not None:
            torch.save(weights, folder / "mp_rank_00_model_states.pt")

    return write


# ── bandwidth ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bandwidth(server: S3Server, turns: int, folder: Path) -> Bandwidth:
    """One rank's files, with digests and verification, against a copy by the same library without either."""
    source = folder / "source"
    source.mkdir()
    _writer(0)(source)
    size = sum(path.stat().st_size for path in source.iterdir())
    found = Bandwidth([], [], [], [])
    for turn in range(turns + 1):
        ours, plain = open_store(f"s3://{server.bucket}/b/{turn}"), open_store(f"s3://{server.bucket}/p/{turn}")
        files: list[CheckpointFile] = []
        seconds = {
            "save": _seconds(lambda: files.extend(Uploader(ours, 0).folder(source, "x"))),  # noqa: B023
            "plain_save": _seconds(lambda: _upload(source, plain)),  # noqa: B023
            "load": _seconds(lambda: _check(fetch(ours, "x", files, folder / "ours"))),  # noqa: B023
            "plain_load": _seconds(lambda: _copy(plain, folder / "plain")),  # noqa: B023
        }
        for place in ("ours", "plain"):
            shutil.rmtree(folder / place)
        ours.delete_folder("x")
        plain.delete_folder("x")
        if turn:  # the first one warms up
            for name, each in seconds.items():
                getattr(found, name).append(size / each)
    return found


def _upload(folder: Path, store: Store) -> None:
    for path in sorted(folder.iterdir()):
        store.upload(path, f"x/{path.name}")


def _copy(store: Store, folder: Path) -> None:
    for entry in store.entries("x"):
        store.download(entry.key, folder / entry.key)


def _check(problem: str) -> None:
    if problem:
        raise RuntimeError(problem)


# ── recovery ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _recovery(folder: Path) -> dict[str, float]:
    """Seconds of each part, from SIGKILL of the only rank to the first new step."""
    model, rows = write_model(folder / "model", "llama"), write_rows(folder / "rows.jsonl")
    job = write_job(folder, model=model, data=rows, training={"maxSteps": 2000}, checkpoint={"everySteps": 2})
    run = _start(folder, job)
    _await(run, "checkpoint saved")
    rank = next(each for each in psutil.Process(run.pid).children(recursive=True) if "RayTrainWorker" in _name(each))
    killed = time.time()
    rank.kill()
    _await(run, "Resumed from step")
    _await(run, "checkpoint saved")
    run.send_signal(signal.SIGINT)
    run.communicate()
    events = [json.loads(line) for line in (folder / "runs/tiny/attempts/1/metrics.jsonl").read_text().splitlines()]
    after = [event for event in events if event["time"] > killed]
    resumed = next(number for number, event in enumerate(after) if event["event"] == "Resumed")
    at = {f"{event['event']} {event.get('note', '')}".strip(): event["time"] for event in after[:resumed]}
    marks = {
        "the loss is noticed": at["StageStarted waiting for machines"],
        "a machine is there, a turn is claimed": at["Restarted"],
        "process start": at["StageStarted loading the model"],
        "model and checkpoint": after[resumed]["time"],
        "first step": next(event["time"] for event in after[resumed:] if event["event"] == "Step"),
    }
    parts, before = {}, killed
    for name, mark in marks.items():
        parts[name], before = mark - before, mark
    return parts | {"total": before - killed}


def _await(run: subprocess.Popen[str], text: str) -> None:
    for line in run.stdout or ():
        if text in line:
            return
    raise RuntimeError(f"the run ended before it said {text!r}")


def _start(folder: Path, job: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", str(job)), cwd=folder, env=environment(), text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _name(process: psutil.Process) -> str:
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tell(blocked: Blocked, bandwidth: Bandwidth, recovery: dict[str, float]) -> None:
    table = Table(title="Checkpoints of 135 M parameters, Full, BF16, 2 ranks, to S3 on this machine")
    for column in ("", "ours", "stock or plain", "ratio", "expected"):
        table.add_column(column, justify="left" if not column else "right")
    ours, stock = median(blocked.ours), median(blocked.stock)
    table.add_row("training blocked, s", f"{ours:.2f}", f"{stock:.2f}", f"1/{stock / ours:.1f}", "1/20 or less")
    staging = median(blocked.staging)
    table.add_row("  of it writing to local disk, s", f"{staging:.2f}", f"{staging:.2f}", "", "")
    for what, one, other in (
        ("save", bandwidth.save, bandwidth.plain_save),
        ("load", bandwidth.load, bandwidth.plain_load),
    ):
        mine, plain = median(one), median(other)
        expected = "0.80 or more" if what == "save" else ""
        table.add_row(f"{what}, MB/s", f"{mine / 1e6:.0f}", f"{plain / 1e6:.0f}", f"{mine / plain:.2f}", expected)
    for part, seconds in recovery.items():
        table.add_row(f"recovery: {part}, s", f"{seconds:.1f}", "", "", "")
    Console().print(table)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine(), "time": time.time()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="saves that count, of each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
