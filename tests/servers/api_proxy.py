"""A proxy in front of the API server that sees every request, and does with it what a test wants.

In: requests of the operator, by plain HTTP. Out: the API server's answers, or what `intercept` makes of them; a record of every
request with its verb, as RBAC names it. A request without credentials is the administrator's.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import aiohttp
from aiohttp import web

from tests.cluster.layout import Layout

Moment = Literal["before", "after"]


@dataclass(frozen=True)
class Call:
    """A request as RBAC sees it. `number` counts the writes from 1, reads have 0. `status` is 0 until it is answered."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    number: int
    status: int = 0

    @property
    def is_write(self) -> bool:
        return self.verb in ("create", "patch", "update", "delete")


@dataclass(frozen=True)
class Answer:
    """Instead of the API server's. Status 0: the connection is closed."""

    status: int
    body: bytes = b""


Intercept = Callable[[Call, Moment], Answer | None]


class ApiProxy:
    """`url` is where it listens; `calls` is what was asked, in the order of the answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Call] = []
        self.intercept: Intercept = lambda _call, _moment: None
        self.not_counted = ""
        """The user agent whose requests are passed on and are nobody's business."""
        self.watch_seconds = 0.0
        """Watches end after this long. 0: when the API server ends them."""
        self._writes = 0

    def writes(self) -> list[Call]:
        """The writes that the API server has answered, well or not."""
        return [call for call in self.calls if call.is_write]

    def numbered(self, call: Call) -> Call:
        if not call.is_write:
            return call
        self._writes += 1
        return replace(call, number=self._writes)

    def write_kubeconfig(self, path: Path, *, token: str = "") -> Path:
        """A kubeconfig whose server is the proxy."""
        user = {"token": token} if token else {}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
            "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
            "users": [{"name": "operator", "user": user}],
        }
        path.write_text(json.dumps(body))
        return path


@contextmanager
def api_proxy(layout: Layout) -> Iterator[ApiProxy]:
    """The proxy, in a thread of its own."""
    ready, stop = threading.Event(), asyncio.Event()
    found: list[tuple[ApiProxy, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        async with _serving(layout) as proxy:
            found.append((proxy, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="api-proxy", daemon=True)
    thread.start()
    assert ready.wait(20)
    proxy, loop = found[0]
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


@asynccontextmanager
async def _serving(layout: Layout) -> AsyncIterator[ApiProxy]:
    pki = layout.folder / "pki"
    trust = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    trust.load_cert_chain(str(pki / "kubelet-client.crt"), str(pki / "kubelet-client.key"))
    anonymous = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
        proxy = ApiProxy("")

        async def handle(request: web.Request) -> web.StreamResponse:
            context = anonymous if "Authorization" in request.headers else trust
            return await _pass_on(proxy, session, layout.server, context, request)

        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield proxy
        await runner.cleanup()


async def _pass_on(
    proxy: ApiProxy, session: aiohttp.ClientSession, server: str, context: ssl.SSLContext, request: web.Request
) -> web.StreamResponse:
    body = await request.read()
    call, own = _call(request), request.headers.get("User-Agent") == proxy.not_counted
    if not own:
        call = proxy.numbered(call)
        if early := proxy.intercept(call, "before"):
            return _given(request, early)
    headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
    url = f"{server}{request.raw_path}"
    try:
        async with session.request(request.method, url, data=body or None, headers=headers, ssl=context) as answer:
            call = replace(call, status=answer.status)
            if not own:
                proxy.calls.append(call)
            if call.verb == "watch":
                return await _stream(proxy, request, answer)
            content = await answer.read()
            if not own and (late := proxy.intercept(call, "after")):
                return _given(request, late)
            kept = {
                name: answer.headers[name] for name in ("Content-Type", "Content-Encoding") if name in answer.headers
            }
            return web.Response(status=answer.status, body=content, headers=kept)
    except aiohttp.ClientError:
        return _given(request, Answer(0))


async def _stream(proxy: ApiProxy, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    passed = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
    await passed.prepare(request)
    try:
        async with asyncio.timeout(proxy.watch_seconds or None):
            async for chunk in answer.content.iter_any():
                await passed.write(chunk)
    except (TimeoutError, ConnectionError, aiohttp.ClientError):
        pass
    return passed


def _given(request: web.Request, answer: Answer) -> web.Response:
    if answer.status:
        return web.Response(status=answer.status, body=answer.body, content_type="application/json")
    assert request.transport
    request.transport.abort()
    return web.Response(status=500)


def _call(request: web.Request) -> Call:
    """The path is /api/v1/... or /apis/<group>/<version>/...: https://kubernetes.io/docs/reference/using-api/api-concepts/"""
    parts = request.path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[3:])
    namespace = ""
    if len(rest) >= 2 and rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name = (rest[0] if rest else ""), (rest[1] if len(rest) > 1 else "")
    if len(rest) > 2:
        resource = f"{resource}/{rest[2]}"
    verbs = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
    verb = verbs.get(request.method) or ("get" if name else "watch" if "watch" in request.query else "list")
    return Call(verb, group, resource, namespace, name, 0)
