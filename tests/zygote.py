"""A process that has imported everything and forks ranks: importing torch, DeepSpeed and TRL takes longer than training a tiny
model.

In: lines of JSON on standard input, one for each group of ranks (`folder`, `ranks`, `environment`, `deadline`). Out: one line for
each, the exit codes of the ranks. It ends when its standard input does. Nothing is computed before a fork, so no thread pool
is there that a fork would lose.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

# When a rank has died, its peers notice it soon; those that do not are ended.
_GRACE_SECONDS = 10
# Read when the libraries are imported.
_EARLY = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run_forked(folder: Path, *, ranks: int, environment: dict[str, str], deadline: float) -> list[int]:
    """Run `tests.ranks` for `folder` in as many processes. Returns their exit codes, negative for signals."""
    zygote = _zygote(threading.get_ident())
    assert zygote.stdin
    assert zygote.stdout
    wanted = {"folder": str(folder), "ranks": ranks, "environment": environment, "deadline": deadline}
    zygote.stdin.write(json.dumps(wanted) + "\n")
    zygote.stdin.flush()
    answer = zygote.stdout.readline()
    if not answer:
        raise AssertionError(f"the zygote has ended with {zygote.wait()}")
    codes: list[int] = json.loads(answer)
    return codes


@lru_cache
def _zygote(_: int) -> subprocess.Popen[str]:
    """One for each thread that runs ranks."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.zygote"],
        env={**os.environ, **_EARLY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    import deepspeed  # noqa: F401
    import torch  # noqa: F401
    import trl  # noqa: F401

    from finetune_training.model import export, model  # noqa: F401
    from finetune_training.worker import objective, steps, worker  # noqa: F401
    from tests import ranks  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), file=answers)


def _run(folder: str, ranks: int, environment: dict[str, str], deadline: float) -> list[int]:
    pids = [_fork(Path(folder), rank, environment) for rank in range(ranks)]
    codes: dict[int, int] = {}
    descriptors = {os.pidfd_open(pid): pid for pid in pids}
    ends = time.monotonic() + deadline
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    while len(codes) < ranks:
        ready = poll.poll(max(0.0, ends - time.monotonic()) * 1000)
        for descriptor, _ in ready:
            pid = descriptors[descriptor]
            codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            poll.unregister(descriptor)
            os.close(descriptor)
            if codes[pid] != 0:
                ends = min(ends, time.monotonic() + _GRACE_SECONDS)
        if not ready:
            for pid in [pid for pid in pids if pid not in codes]:
                os.kill(pid, signal.SIGKILL)
            ends = time.monotonic() + deadline
    return [codes[pid] for pid in pids]


def _fork(folder: Path, rank: int, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code: Any = 1
    try:
        log = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ.clear()
        os.environ.update(environment | _EARLY | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        from tests import ranks

        ranks.main(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
