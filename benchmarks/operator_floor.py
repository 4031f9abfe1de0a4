"""The floor: a bare client that makes the operator's writes, in a process of its own like the operator.

In: lines `start NAME UID` and `running NAME UID`, as soon as a job is there and its RayJob is Running; the writes, by
operator_recorder.py. Out: the requests, as many at a time as the operator has workers, and one line for each job that is done. It
watches nothing, reads nothing and decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.operator_clients import Api, connect
from benchmarks.operator_process import cpu_seconds
from benchmarks.operator_requests import RAYJOB_UID, Life, Phase, Write, filled, fillings
from benchmarks.waiting import STILL, Failed, told, within
from finetune_operator import names

_ROOT = Path(__file__).parents[1]


class Floor:
    """The process, as its parent sees it."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._input, self._output = process, process.stdin, process.stdout

    @classmethod
    @asynccontextmanager
    async def started(cls, kubeconfig: Path, namespace: str, workers: int, life: Path) -> AsyncIterator[Floor]:
        """Until the block ends."""
        arguments = [str(kubeconfig), namespace, str(workers), str(life)]
        command = [sys.executable, "-m", "benchmarks.operator_floor", *arguments]
        process = await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdin=PIPE, stdout=PIPE)
        floor = cls(process)
        try:
            await floor._line("the bare client to start")
            yield floor
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def tell(self, what: Phase, name: str, uid: str) -> None:
        """Do what comes for this job."""
        self._input.write(f"{what} {name} {uid}\n".encode())

    async def done(self, what: Phase, jobs: int) -> None:
        """Return when that many more are done."""
        for number in range(jobs):
            await self._line(f"the bare client's writes for the next job ({what})", f"{number} of {jobs} jobs done")

    async def _line(self, what: str, seen: str = "") -> None:
        if not await within(STILL, what, self._output.readline(), lambda: seen):
            await within(STILL, "the bare client to end", self._process.wait(), lambda: seen)
            raise Failed(
                f"the bare client has ended: what it said is above. Waited for {what}; {seen or 'nothing'} was seen."
            )

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)


async def _serve(kubeconfig: Path, namespace: str, workers: int, life: Life) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    todo: asyncio.Queue[tuple[Phase, str, str]] = asyncio.Queue()

    async def worker(api: Api) -> None:
        while True:
            what, name, uid = await todo.get()
            await _write(api, life.of(what), namespace, name, uid)
            print(name, flush=True)

    async with connect(kubeconfig, workers) as api, asyncio.TaskGroup() as tasks:
        for _ in range(workers):
            tasks.create_task(worker(api))
        print("ready", flush=True)
        while line := await reader.readline():  # as long as the parent lives: it ends this process, or the pipe does
            phase, name, uid = line.decode().split()
            todo.put_nowait(("start" if phase == "start" else "running", name, uid))
        raise Failed("the benchmark has ended")


async def _write(api: Api, writes: tuple[Write, ...], namespace: str, name: str, uid: str) -> None:
    pairs = fillings(namespace, name, uid)
    for write in writes:
        body = filled(write.body, pairs).encode()
        answer = await api.send(write.method, filled(write.path, pairs), body, write.kind, write.accept)
        if write.resource == names.RAYJOBS:
            pairs = (*pairs, (RAYJOB_UID, json.loads(answer)["metadata"]["uid"]))


if __name__ == "__main__":
    with told("the bare client"):
        asyncio.run(
            _serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Life.from_json(Path(sys.argv[4]).read_text()))
        )
