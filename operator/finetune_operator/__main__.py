"""`python -m finetune_operator`: settings → logging → watches and workers, until a signal.

In: the environment. Out: exit code 0 after SIGTERM or Ctrl-C; 2 when the settings are wrong; 1 when the process must start anew
(the Lease is lost, KubeRay has come, a bug).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable

import kopf

from finetune_operator.act.apiserver import ApiServer, connect
from finetune_operator.loop import handlers
from finetune_operator.loop.controller import Controller, NewKind
from finetune_operator.loop.leader import LeaseLost, lead
from finetune_operator.loop.metrics import Metrics
from finetune_operator.loop.workqueue import WorkQueue
from finetune_operator.observe.store import Store
from finetune_operator.settings import InvalidSettings, Settings, read_settings

logger = logging.getLogger(__name__)

_GRACE = 10.0
"""Seconds that work under way gets to end well, of the 30 that Kubernetes gives a pod."""


def main() -> int:
    """The process."""
    try:
        settings = read_settings(os.environ)
        _set_up_logging(settings)
        return asyncio.run(_operate(settings))
    except InvalidSettings as error:
        print(f"finetune-operator: the settings are wrong:\n{error}", file=sys.stderr)
        return 2


async def _operate(settings: Settings) -> int:
    store, queue = Store(), WorkQueue(time.monotonic)
    metrics = Metrics(store, queue)
    _spare_the_collector()
    async with connect(metrics.request) as server:
        controller = Controller(server, settings, metrics, store, queue)
        metrics.serve(settings.metrics_port)
        working = asyncio.create_task(_work(controller, server, settings), name="work")
        stop = asyncio.Event()
        working.add_done_callback(lambda _: stop.set())

        async def finish() -> None:
            queue.close()
            await asyncio.wait([working], timeout=_GRACE)

        await _watch(controller, settings, stop, finish)
        return _exit_code(working)


def _spare_the_collector() -> None:
    """Every object that is read is many new dicts, so Python would look for cycles all the time, and now and then among all
    that was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


async def _work(controller: Controller, server: ApiServer, settings: Settings) -> None:
    if settings.leader_election:
        await lead(server, settings, controller.run)
    else:
        await controller.run()


async def _watch(
    controller: Controller, settings: Settings, stop: asyncio.Event, finish: Callable[[], Awaitable[None]]
) -> None:
    """kopf, until a signal or `stop`."""
    registry = kopf.OperatorRegistry()
    handlers.register(registry, controller, finish)
    options = kopf.OperatorSettings()
    handlers.configure(options)
    await kopf.operator(
        registry=registry,
        settings=options,
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz",
        stop_flag=stop,
    )


def _exit_code(working: asyncio.Task[None]) -> int:
    if working.cancelled() or not working.done():
        logger.warning("Work under way was cut short; the next process does it")
        return 0
    error = working.exception()
    if error is None:
        return 0
    expected, bugs = BaseExceptionGroup("work", [error]).split((NewKind, LeaseLost))
    if bugs:
        raise error
    logger.warning("Starting anew: %r", expected)
    return 1


def _set_up_logging(settings: Settings) -> None:
    level = logging.getLevelName(settings.log_level.upper())
    kopf.configure(
        debug=level == logging.DEBUG,
        quiet=level >= logging.WARNING,
        log_format=kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.PLAIN,
    )
    handlers.quiet(level)


if __name__ == "__main__":
    sys.exit(main())
