"""All of kopf: watches in, keys out.

kopf is used event-only: no finalizers, no annotations, no writes (docs/decisions.md says why). Its handlers put what they see
into the store and the key into the queue; what is done about it is decided elsewhere.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf

from finetune_operator.act.apiserver import LIST_PAGE
from finetune_operator.loop.controller import Controller
from finetune_operator.loop.kinds import KINDS
from finetune_operator.observe.views import View
from finetune_training.contract.record import Json


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf would copy each object to find out what has changed in it, which nobody asks."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return None

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        return None


def register(registry: kopf.OperatorRegistry, controller: Controller, finish: Callable[[], Awaitable[None]]) -> None:
    """Tell `registry` what to watch, what to say to a probe, and to `finish` when the watches have ended."""
    for kind in KINDS:
        labels = {kind.label: kopf.PRESENT} if kind.label else {}
        kopf.on.event(kind.group, kind.version, kind.resource, registry=registry, id=kind.resource, labels=labels)(
            _noticing(controller, kind.view)
        )

    @kopf.on.login(registry=registry, id="login")
    async def login(**options: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**options) or kopf.login_with_kubeconfig(**options)

    @kopf.on.cleanup(registry=registry, id="finish")
    async def cleanup(**_: Any) -> None:
        await finish()  # before kopf cancels every task that it finds

    @kopf.on.probe(registry=registry, id="loop")
    async def loop(**_: Any) -> str:
        if problem := controller.unwell:
            raise kopf.PermanentError(problem)  # any other error would make the probe hang
        return "ok"


def configure(settings: kopf.OperatorSettings) -> None:
    """What kopf does of itself is turned off; its watches are bounded, so that none goes deaf."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.watching.chunk_size = LIST_PAGE
    settings.queueing.idle_timeout = 0.1  # a worker keeps the last object that it has seen until it ends
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    for kind in (each for each in KINDS if each.label):
        settings.watching.label_selectors[kind.group, kind.version, kind.resource] = kind.label
    settings.networking.request_timeout = 60
    # After the last of them kopf, and with it the process, would end: an API server that is being upgraded takes minutes.
    settings.networking.error_backoffs = _Patience()


class _Patience:
    """Seconds between the tries of a request, without end."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 2, 5), itertools.repeat(10))


def _noticing(controller: Controller, view: Callable[[Json], View]) -> Callable[..., Any]:
    async def noticed(event: Json, **_: Any) -> None:
        controller.noticed(view(event["object"]), gone=event["type"] == "DELETED")

    return noticed


def quiet(level: int) -> None:
    """What kopf and its web server say at INFO is of no use to an operator's operator."""
    for name in ("kopf", "aiohttp.access"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
