"""Ranks that die at a moment of one's choice.

In: a rank and the number of an event. Events are what a rank does to the store (just before and just after it) and the writing
of its files to local disk. Out: SIGKILL at that event, of that rank or of all; what each rank has used and counted is in files,
because what was in memory is lost.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

_REQUESTS = ("entries", "folders", "get", "create", "upload", "download", "delete", "delete_folder")


@dataclass(frozen=True)
class Kill:
    """Kill `rank` at its `event`-th event (0: never, only count), and the others with it if `all_ranks`."""

    rank: int
    event: int
    all_ranks: bool = False


def set_up(kill: Kill, rank: int, folder: Path) -> None:
    """In a rank: count, and die when it is time."""
    from finetune_training.store.storage import Store
    from finetune_training.worker.objective import ExactSFTTrainer

    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    lock, count = threading.Lock(), 0

    def happens(what: str) -> None:
        nonlocal count
        with lock:
            count += 1
            with (folder / f"events-{rank}").open("a") as events:
                events.write(f"{what}\n")
            if rank == kill.rank and count == kill.event:
                victims = folder.glob("pid-*") if kill.all_ranks else []
                for other in [int(path.read_text()) for path in victims]:
                    if other != os.getpid():
                        os.kill(other, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: type, name: str) -> None:
        work: Callable[..., Any] = getattr(owner, name)

        @wraps(work)
        def counted(self: Any, *arguments: Any, **options: Any) -> Any:
            happens(f"before {name}")
            result = work(self, *arguments, **options)
            happens(f"after {name}")
            return result

        setattr(owner, name, counted)

    for name in _REQUESTS:
        around(Store, name)
    around(ExactSFTTrainer, "write_state")


def events(folder: Path, rank: int) -> list[str]:
    """What the rank has done, in order."""
    return (folder / f"events-{rank}").read_text().splitlines()


def record_rows(folder: Path, rank: int, rows: list[int]) -> None:
    """The rows of a rank's next micro batch."""
    with (folder / f"rows-{rank}").open("a") as file:
        file.write(f"{json.dumps(rows)}\n")


def recorded_rows(folder: Path, rank: int) -> list[list[int]]:
    """Those of each micro batch, in order."""
    path = folder / f"rows-{rank}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
