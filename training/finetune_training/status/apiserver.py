"""The Kubernetes API server, as a pod reaches it by its service account: read an object, apply to one.

In: an object's path and its fields. Out: the server's answer. No client library: these are two requests. Token and
certificate are read anew for each call, because Kubernetes rotates both while a run lasts. Proxies of the environment
are for what is outside the cluster, and are not used.
"""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the account of every pod."""
_TIMEOUT_SECONDS = 10.0
_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Answer:
    """An HTTP status with the object, or with the server's words when it refuses."""

    code: int
    message: str = ""
    found: dict[str, Any] = field(default_factory=dict)


class Unreachable(Exception):
    """There was no answer."""


@dataclass(frozen=True)
class ApiServer:
    """Where it is. `account`: the folder with token and ca.crt."""

    host: str
    port: int
    account: Path = ACCOUNT

    def get(self, path: str) -> Answer:
        """Read the object at `path`. Raises Unreachable."""
        return self._call("GET", path)

    def apply(self, path: str, fields: dict[str, Any], *, manager: str) -> Answer:
        """Server-side apply: make `fields` so, and own them as `manager`. Raises Unreachable."""
        query = urlencode({"fieldManager": manager, "force": "true"})
        return self._call("PATCH", f"{path}?{query}", json.dumps(fields, allow_nan=False).encode())

    def _call(self, method: str, path: str, body: bytes | None = None) -> Answer:
        try:
            token = (self.account / "token").read_text(encoding="ascii").strip()
            context = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
            headers = {"Authorization": f"Bearer {token}", "Content-Type": _APPLY, "Accept": "application/json"}
            connection = HTTPSConnection(self.host, self.port, timeout=_TIMEOUT_SECONDS, context=context)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                return _answer(response.status, response.read())
            finally:
                connection.close()
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{self.host}:{self.port}: {error}") from error


def in_pod() -> ApiServer | None:
    """The API server of the cluster that this process runs in, None when there is none."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return ApiServer(host, int(port), ACCOUNT) if host and port.isdigit() else None


def _answer(code: int, body: bytes) -> Answer:
    """What is no object comes from something in between, such as a load balancer."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return Answer(code if code >= 400 else 502, body.decode("utf-8", "replace")[:200])
    return Answer(code, str(found.get("message", ""))) if code >= 400 else Answer(code, found=found)
