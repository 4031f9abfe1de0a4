"""One rank's files to the store and back: ours, with digests and verification, against a copy by the same library without either.

In: an S3 server, how many parameters, how many turns. Out: bytes per second.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoint_blocked import seconds_of, writer
from benchmarks.waiting import Failed, limited
from finetune_training.checkpoint.manifest import CheckpointFile
from finetune_training.checkpoint.upload import Uploader
from finetune_training.checkpoint.verified import fetch
from finetune_training.store.storage import Store, open_store
from tests.servers.s3 import S3Server

_TURN_SECONDS = 300.0


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second, for each turn."""

    save: list[float]
    plain_save: list[float]
    load: list[float]
    plain_load: list[float]


def bandwidth(server: S3Server, *, parameters: int, turns: int, folder: Path) -> Bandwidth:
    """The first turn warms up and does not count. Raises GaveUp."""
    source = folder / "source"
    source.mkdir()
    writer(0, parameters)(source)
    size = sum(path.stat().st_size for path in source.iterdir())
    found = Bandwidth([], [], [], [])
    for turn in range(turns + 1):
        done: dict[str, float] = {}
        what = f"{size / 1e6:.0f} MB to go to the store and back, twice (turn {turn} of {turns})"
        with limited(_TURN_SECONDS, what, lambda: f"seconds of {done}"):  # noqa: B023
            ours, plain = (open_store(f"s3://{server.bucket}/{place}/{turn}") for place in ("ours-alone", "plain"))
            _turn(source, ours, plain, folder, done)
        if turn:
            for name, each in done.items():
                getattr(found, name).append(size / each)
    return found


def _turn(source: Path, ours: Store, plain: Store, folder: Path, done: dict[str, float]) -> None:
    """The seconds come into `done` one by one."""
    files: list[CheckpointFile] = []
    done["save"] = seconds_of(lambda: files.extend(Uploader(ours, 0).folder(source, "x")))
    done["plain_save"] = seconds_of(lambda: _upload(source, plain))
    done["load"] = seconds_of(lambda: _check(fetch(ours, "x", files, folder / "ours")))
    done["plain_load"] = seconds_of(lambda: _copy(plain, folder / "plain"))
    for place in ("ours", "plain"):
        shutil.rmtree(folder / place)
    ours.delete_folder("x")
    plain.delete_folder("x")


def _upload(folder: Path, store: Store) -> None:
    for path in sorted(folder.iterdir()):
        store.upload(path, f"x/{path.name}")


def _copy(store: Store, folder: Path) -> None:
    for entry in store.entries("x"):
        store.download(entry.key, folder / entry.key)


def _check(problem: str) -> None:
    if problem:
        raise Failed(problem)
