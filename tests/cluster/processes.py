"""The cluster's processes: started apart from this one, found again by a mark in their environment, stopped by that mark.

The mark is what `/proc` says of a living process, so it can be neither stale nor forgotten, whatever was killed half-way.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster.layout import BIN
from tests.cluster.steps import Problem, until

_FOLDER, _NAME = "FINETUNE_CLUSTER", "FINETUNE_CLUSTER_PROCESS"
_END_SECONDS = 30


def start(folder: Path, name: str, command: Sequence[str | Path]) -> None:
    """Start `command` as `name`, with its output in `<folder>/logs/<name>.log`. It outlives this process."""
    log = log_of(folder, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    path = f"{BIN}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    with log.open("ab") as output:
        # setsid forks: the process is nobody's child, so it outlives this one and leaves no zombie here.
        subprocess.run(
            ["setsid", "--fork", *map(str, command)],
            env={"PATH": path, "HOME": str(folder), _FOLDER: str(folder), _NAME: name},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )


def mark_children(folder: Path, name: str) -> None:
    """Give the mark to whatever this process starts from now on: if it is killed, its children do not go on unseen."""
    os.environ[_FOLDER], os.environ[_NAME] = str(folder), name


def running(folder: Path) -> dict[str, list[int]]:
    """The cluster's processes by name, as far as this user may see them. A node's name stands for all that runs in it."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = dict(
                word.split("=", 1)
                for word in (entry / "environ").read_text(errors="replace").split("\0")
                if "=" in word
            )
        except OSError:  # it ended, or belongs to another user
            continue
        if environment.get(_FOLDER) == str(folder) and _NAME in environment:
            found.setdefault(environment[_NAME], []).append(int(entry.name))
    return {name: sorted(pids) for name, pids in found.items()}


def stop(folder: Path, names: Iterable[str] | None = None) -> None:
    """Kill the named processes, or all, and wait until they are gone. Nothing here has anything to lose."""
    wanted = None if names is None else set(names)
    # Again until none is found: one that was about to start another may have done so.
    for _ in until(_END_SECONDS):
        pids = [pid for name, each in running(folder).items() if wanted is None or name in wanted for pid in each]
        if not pids:
            return
        descriptors = []
        for pid in pids:
            with suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(descriptors[-1], signal.SIGKILL)
        for descriptor in descriptors:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            poller.poll(_END_SECONDS * 1000)
            os.close(descriptor)
    raise Problem(f"these processes do not end: {pids}")


def await_ready(folder: Path, name: str, ready: Callable[[], bool], *logs: Path, seconds: float = 180) -> None:
    """Return once `ready` says so. Raises Problem with the ends of the process's log and of other `logs` when the process
    ends or the time is over."""
    for _ in until(seconds):
        if ready():
            return
        if name not in running(folder):
            break
    what = "is not ready" if name in running(folder) else "has ended"
    raise Problem(
        "\n".join([f"{name} {what}.", *(f"The end of {log}:\n{tail(log)}" for log in (log_of(folder, name), *logs))])
    )


def log_of(folder: Path, name: str) -> Path:
    """Where the output of a process is."""
    return folder / "logs" / f"{name}.log"


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a file; nothing if it is not there."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
