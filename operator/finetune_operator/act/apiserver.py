"""The API server: the only room that talks to it, but for kopf's watches.

In: paths and plain JSON. Out: plain JSON, or an `ApiError` that says whether another try may help. Requests, credentials and
connections are those of `kubernetes.aio`; its models are not used, which halves the time of a request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.config import ConfigException

from finetune_operator import names
from finetune_operator.settings import InvalidSettings
from finetune_training.contract.record import Json

T = TypeVar("T")
Observer = Callable[[str, str, int], None]
"""Told of each request: method, resource, status (0: no answer)."""

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_CONNECTIONS = 32
_SESSION = {"trust_env": False}
"""aiohttp would look for a netrc file and proxies before each request, in a thread: that was over a quarter of the CPU time."""
LIST_PAGE = 100
"""Objects of one answer: while it is read, all of them are in memory."""

JOBS = f"/apis/{names.API_VERSION}"
RAYJOBS = f"/apis/{names.RAY_GROUP}/{names.RAY_VERSION}"
CORE = "/api/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


class ApiError(Exception):
    """The API server said no. `status` is the HTTP status, `reason` and `message` are those of its answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message

    @property
    def transient(self) -> bool:
        """Another try may help."""
        return self.status in (0, 408, 409, 429) or self.status >= 500


@asynccontextmanager
async def connect(observer: Observer) -> AsyncIterator[ApiServer]:
    """As the pod's account, or as the kubeconfig says. Raises InvalidSettings."""
    settings = client.Configuration()
    try:
        config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
    except ConfigException:
        try:
            await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        except ConfigException as error:
            raise InvalidSettings(f"neither in a cluster, nor is there a usable kubeconfig: {error}") from None
    settings.connection_pool_maxsize = _CONNECTIONS
    settings.client_session_kwargs = _SESSION
    async with client.ApiClient(settings) as api:
        yield ApiServer(api, observer)


class ApiServer:
    """Requests, by path and plain JSON. Each raises ApiError."""

    def __init__(self, api: client.ApiClient, observer: Observer) -> None:
        self.api = api
        self._observer = observer

    async def get(self, path: str, namespace: str, resource: str, name: str, *, subresource: str = "") -> Json | None:
        """The object, or None. By its subresource `status` it is the whole object, too."""
        try:
            return _parsed(await self._send("GET", _path(path, namespace, resource, name, subresource), resource))
        except ApiError as error:
            if error.status == 404 and error.reason == "NotFound":
                return None
            raise

    async def create(self, path: str, namespace: str, resource: str, body: Json) -> Json:
        """Make it. A field that the API server does not know is an error, not dropped."""
        query = {"fieldManager": names.OPERATOR_MANAGER, "fieldValidation": "Strict"}
        return _parsed(await self._send("POST", _path(path, namespace, resource), resource, body=body, query=query))

    async def apply(self, path: str, namespace: str, resource: str, body: Json, *, subresource: str = "") -> Json:
        """Server-side apply, by force. Returns its metadata."""
        url = _path(path, namespace, resource, body["metadata"]["name"], subresource)
        query = {"fieldManager": names.OPERATOR_MANAGER, "force": "true"}
        return _parsed(
            await self._send("PATCH", url, resource, body=body, query=query, kind=_APPLY, accept=_METADATA_ONLY)
        )

    async def delete(
        self, path: str, namespace: str, resource: str, name: str, uid: str, *, at_once: bool = False
    ) -> Json | None:
        """Delete the object with this uid; its children go in the background. `at_once`: without the grace of a pod. None: it
        is gone already. Otherwise what the API server says: the object, while a finalizer keeps it."""
        options: dict[str, Any] = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if at_once:
            options["gracePeriodSeconds"] = 0
        try:
            return _parsed(await self._send("DELETE", _path(path, namespace, resource, name), resource, body=options))
        except ApiError as error:
            if error.status == 404 or (error.status == 409 and "uid" in error.message.lower()):
                return None
            raise

    async def list(
        self, path: str, namespace: str, resource: str, selector: str, view: Callable[[Json], T]
    ) -> tuple[list[T], int]:
        """The view of every object, and the resourceVersion of the list. An empty namespace: all."""
        found: list[T] = []
        query = {"limit": str(LIST_PAGE), "labelSelector": selector}
        while True:
            page = _parsed(await self._send("GET", _path(path, namespace, resource), resource, query=query))
            found += [view(item) for item in page["items"]]
            if not (more := page["metadata"].get("continue")):
                return found, int(page["metadata"]["resourceVersion"])
            query["continue"] = more

    async def log(self, namespace: str, pod: str, container: str, *, lines: int, limit: int, seconds: float) -> str:
        """The last lines of a container's log, in at most so many bytes and seconds."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(limit)}
        path, timeout = _path(CORE, namespace, "pods", pod, "log"), aiohttp.ClientTimeout(total=seconds)
        text = await self._send("GET", path, "pods/log", query=query, accept="*/*", timeout=timeout)
        return text.decode(errors="replace")

    async def _send(
        self,
        method: str,
        path: str,
        resource: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = _JSON,
        accept: str = _JSON,
        timeout: aiohttp.ClientTimeout = _TIMEOUT,
    ) -> bytes:
        headers = {"Accept": accept, "Content-Type": kind, "User-Agent": names.OPERATOR_MANAGER}
        await self.api.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        url = f"{self.api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            answer = await self.api.call_api(method, url, headers, body, _request_timeout=timeout)
            text: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._observer(method, resource, 0)
            raise ApiError(0, "NoAnswer", str(error) or type(error).__name__) from error
        self._observer(method, resource, answer.status)
        if answer.status >= 400:
            raise _error(answer.status, text)
        return text


def _parsed(text: bytes) -> Json:
    body: Json = json.loads(text)
    return body


def _error(status: int, text: bytes) -> ApiError:
    """A proxy, and the API server for a path that it does not know, answer with something else than a Status."""
    try:
        said = json.loads(text)
        return ApiError(status, said.get("reason", ""), said.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(status, "", text.decode(errors="replace")[:200].strip())


def _path(group: str, namespace: str, resource: str, name: str = "", subresource: str = "") -> str:
    parts = [group, *(("namespaces", namespace) if namespace else ()), resource, name, subresource]
    return "/".join(part for part in parts if part)
