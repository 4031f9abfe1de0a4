"""All of kopf: watches in, keys out.

kopf is used event-only: no finalizers, no annotations, no writes (docs/decisions.md says why). Its handlers put what they see
into the store and the key into the queue; what is done about it is decided elsewhere.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import kopf

from finetune_operator import names
from finetune_operator.act.apiserver import LIST_PAGE
from finetune_operator.loop.controller import Controller
from finetune_operator.observe.views import View, view_job, view_pod, view_rayjob

Body = Mapping[str, Any]


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
    kinds: tuple[tuple[tuple[str, ...], Callable[[Body], View], Mapping[str, Any]], ...] = (
        ((names.GROUP, names.VERSION, names.PLURAL), view_job, {}),
        ((names.RAY_GROUP, names.RAY_VERSION, names.RAYJOBS), view_rayjob, {names.UID_LABEL: kopf.PRESENT}),
        (("v1", "pods"), view_pod, {names.UID_LABEL: kopf.PRESENT}),
    )
    for resource, view, labels in kinds:
        kopf.on.event(*resource, registry=registry, id=resource[-1], labels=labels)(_noticing(controller, view))

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
    settings.watching.label_selectors[names.RAY_GROUP, names.RAY_VERSION, names.RAYJOBS] = names.UID_LABEL
    settings.watching.label_selectors["", "v1", "pods"] = names.UID_LABEL
    settings.networking.request_timeout = 60
    # After the last of them kopf, and with it the process, would end: an API server that is being upgraded takes minutes.
    settings.networking.error_backoffs = _Patience()


class _Patience:
    """Seconds between the tries of a request, without end."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 2, 5), itertools.repeat(10))


def _noticing(controller: Controller, view: Callable[[Body], View]) -> Callable[..., Any]:
    async def noticed(event: Body, **_: Any) -> None:
        controller.noticed(view(event["object"]), gone=event["type"] == "DELETED")

    return noticed


def quiet(level: int) -> None:
    """What kopf and its web server say at INFO is of no use to an operator's operator."""
    for name in ("kopf", "aiohttp.access"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
