"""A proxy in front of an S3 server that fails on demand: late, slow, with an error, cut short, without an answer, or gone.

One file, aiohttp only: it runs as a process beside an integration test and in a pod beside the cluster's S3 server.
`GET /` on the control port tells the fault and how often it happened; `POST /` with a fault as JSON sets it; `{}` ends it.
A request is passed on as it came, so signatures stay valid.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, fields

import aiohttp
from aiohttp import web
from yarl import URL

_CHUNK = 64 * 1024
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the requests that match. Without any of the first six, nothing does."""

    delay: float = 0  # seconds before anything happens
    bytes_per_second: int = 0  # both bodies are passed on this slowly
    status: int = 0  # the answer, instead of the server's; the request is read to its end
    cut: int = 0  # the answer's body ends after as many bytes, and the connection with it
    hang: bool = False  # no answer, until the fault ends
    reset: bool = False  # the connection is closed at once
    methods: str = ""  # a regular expression; empty: any
    path: str = ""  # a regular expression, searched for in path and query; empty: any
    times: int = 0  # only the first requests that match; 0: all

    @property
    def any(self) -> bool:
        """Whether there is a fault at all."""
        return bool(self.delay or self.bytes_per_second or self.status or self.cut or self.hang or self.reset)


class Proxy:
    """The proxy and its fault."""

    def __init__(self, server: str) -> None:
        self._server = URL(server)
        self._fault = Fault()
        self._hits = 0
        self._ended = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    async def control(self, request: web.Request) -> web.Response:
        """Tell or set the fault."""
        if request.method == "POST":
            asked = json.loads(await request.text() or "{}")
            if unknown := asked.keys() - {field.name for field in fields(Fault)}:
                return web.json_response({"error": f"no such field: {', '.join(sorted(unknown))}"}, status=400)
            self._ended.set()
            self._fault, self._hits, self._ended = Fault(**asked), 0, asyncio.Event()
        return web.json_response({"fault": asdict(self._fault), "hits": self._hits})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on, or not."""
        fault, ended = self._fault_of(request), self._ended
        if fault.reset:
            return _reset(request)
        await asyncio.sleep(fault.delay)
        if fault.hang:
            await ended.wait()
            return _reset(request)
        if fault.status:
            async for _ in request.content.iter_chunked(_CHUNK):
                pass
            body = f"<Error><Code>{'SlowDown' if fault.status == 503 else 'InternalError'}</Code></Error>"
            return web.Response(status=fault.status, text=body, content_type="application/xml")
        return await self._pass_on(request, fault)

    def _fault_of(self, request: web.Request) -> Fault:
        fault = self._fault
        matches = re.fullmatch(fault.methods or ".*", request.method) and re.search(fault.path, request.raw_path)
        if not fault.any or not matches or (fault.times and self._hits >= fault.times):
            return Fault()
        self._hits += 1
        return fault

    async def _pass_on(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                timeout=aiohttp.ClientTimeout(sock_connect=5),
                # No connection is kept: one to a server that was replaced would never answer.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
            )
        url = URL(f"{self._server.origin()}{request.raw_path}", encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        body = _slowly(request.content, fault.bytes_per_second) if request.can_read_body else None
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                return await _answer(request, answer, fault)
        except aiohttp.ClientConnectionError:  # the server is gone, or went away in between
            return _reset(request)


async def _answer(request: web.Request, answer: aiohttp.ClientResponse, fault: Fault) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in _HOP_BY_HOP:
            response.headers.add(name, value)
    await response.prepare(request)
    sent = 0
    async for chunk in _slowly(answer.content, fault.bytes_per_second):
        if fault.cut and sent + len(chunk) > fault.cut:
            await response.write(chunk[: fault.cut - sent])
            return _reset(request, response)
        await response.write(chunk)
        sent += len(chunk)
    await response.write_eof()
    return response


async def _slowly(content: aiohttp.StreamReader, bytes_per_second: int) -> AsyncIterator[bytes]:
    async for chunk in content.iter_chunked(min(_CHUNK, bytes_per_second or _CHUNK)):
        if bytes_per_second:
            await asyncio.sleep(len(chunk) / bytes_per_second)
        yield chunk


def _reset(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return response or web.Response()


async def _serve(listen: str, control: str, server: str) -> None:
    proxy = Proxy(server)
    for address, handler in ((listen, proxy.handle), (control, proxy.control)):
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        host, _, port = address.rpartition(":")
        await web.TCPSite(runner, host, int(port)).start()
    print("s3-proxy: ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A proxy in front of an S3 server that fails on demand.")
    for option in ("--listen", "--control", "--server"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    asyncio.run(_serve(options.listen, options.control, options.server))
