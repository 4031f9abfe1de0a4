"""The floor: a bare client that makes the operator's writes, in a process of its own like the operator.

In: lines `start NAME UID` and `running NAME UID`, as soon as a job is there and its RayJob is Running; the bodies, by
operator_bodies.py. Out: the requests, as many at a time as the operator has workers, and one line for each job that is done. It
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

from operator_clients import Api, connect, jobs_path, rayjobs_path
from operator_process import cpu_seconds


class Floor:
    """The process, as its parent sees it."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._input, self._output = process, process.stdin, process.stdout

    @classmethod
    @asynccontextmanager
    async def started(cls, kubeconfig: Path, namespace: str, workers: int, bodies: Path) -> AsyncIterator[Floor]:
        """Until the block ends."""
        arguments = [str(kubeconfig), namespace, str(workers), str(bodies)]
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, *arguments, stdin=PIPE, stdout=PIPE)
        floor = cls(process)
        try:
            await floor.done(1)
            yield floor
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def tell(self, what: str, name: str, uid: str) -> None:
        """Do what comes for this job."""
        self._input.write(f"{what} {name} {uid}\n".encode())

    async def done(self, jobs: int) -> None:
        """Return when that many more are done."""
        for _ in range(jobs):
            if not await self._output.readline():
                raise SystemExit("The bare client has ended: what it said is above.")

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)


async def _serve(kubeconfig: Path, namespace: str, workers: int, bodies: Path) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    todo: asyncio.Queue[list[str]] = asyncio.Queue()
    templates: dict[str, str] = json.loads(bodies.read_text())

    async def worker(api: Api) -> None:
        while True:
            what, name, uid = await todo.get()
            await _write(api, namespace, templates, what, name, uid)
            print(name, flush=True)

    async with connect(kubeconfig, workers) as api, asyncio.TaskGroup() as tasks:
        for _ in range(workers):
            tasks.create_task(worker(api))
        print("ready", flush=True)
        while line := await reader.readline():
            todo.put_nowait(line.decode().split())


async def _write(api: Api, namespace: str, templates: dict[str, str], what: str, name: str, uid: str) -> None:
    def body(template: str, rayjob: str = "") -> bytes:
        text = templates[template].replace("$NAMESPACE", namespace).replace("$JOB", name)
        return text.replace("$UID", uid).replace("$RAYJOB", rayjob).encode()

    core = f"/api/v1/namespaces/{namespace}"
    if what == "start":
        made = await api.post(rayjobs_path(namespace), body("rayjob"))
        await api.apply(f"{core}/configmaps/{name}-1", body("configMap", made["metadata"]["uid"]))
        await api.apply(f"{jobs_path(namespace)}/{name}/status", body("pending"))
    else:
        await api.apply(f"{jobs_path(namespace)}/{name}/status", body("running"))
        await api.post(f"{core}/events", body("event"))


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
