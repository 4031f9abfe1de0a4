"""Reading the end of a log from an API server: what is asked for, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from finetune_operator.act import execute
from finetune_operator.act.apiserver import ApiServer
from finetune_operator.act.execute import Executor
from finetune_operator.decide.effects import LogOf
from finetune_operator.observe.store import Store
from finetune_operator.observe.views import view_job
from finetune_operator.settings import Settings
from tests.unit.operator.worlds import job

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def read(handler: Handler) -> tuple[str, list[Any]]:
    """What the operator makes of what `handler` answers, and the requests that it counted."""
    requests: list[Any] = []

    async def ask() -> str:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/team/pods/head/log", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            settings = client.Configuration()
            settings.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with client.ApiClient(settings) as api:
                server = ApiServer(api, lambda *request: requests.append(request))
                executor = Executor(server, Store(), Settings())
                return await executor.read(LogOf("head", "ray-head"), view_job(job()))
        finally:
            await runner.cleanup()

    return asyncio.run(ask()), requests


def test_the_last_lines_of_one_containers_log_are_asked_for() -> None:
    asked: dict[str, str] = {}

    async def answer(request: web.Request) -> web.Response:
        asked.update(request.query)
        return web.Response(body=b"last words\xff")

    text, requests = read(answer)
    assert text == "last words\ufffd"
    assert asked == {"container": "ray-head", "tailLines": "20", "limitBytes": "65536"}
    assert requests == [("GET", "pods/log", 200)]


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_log_that_is_not_to_be_had_is_none(status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Odd", "message": "no"}, status=status)

    assert read(answer) == ("", [("GET", "pods/log", status)])


def test_nobody_waits_for_a_kubelet_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "_LOG_SECONDS", 0.2)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(5)
        return response

    began = time.monotonic()
    text, _ = read(answer)
    assert text == ""
    assert time.monotonic() - began < 3
