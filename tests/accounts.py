"""Service accounts and pods as users of an API server: with their own tokens, so that their own rights are what counts."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from base64 import b64decode
from dataclasses import dataclass
from typing import Any

import yaml

from tests.cluster.kubectl import Kubectl


class Refused(Exception):
    """The API server has refused a request. The message is its own."""


@dataclass(frozen=True)
class Account:
    """A service account with one of its tokens. kubectl would read what it patches; a driver may not."""

    server: str
    authority: str
    token: str

    def patch(self, path: str, body: dict[str, Any], kind: str = "merge-patch+json") -> dict[str, Any]:
        """PATCH `path`, and return the object as it is then. Raises Refused."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": f"application/{kind}"}
        content = json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, content, headers, method="PATCH")
        context = ssl.create_default_context(cadata=self.authority)
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                patched: dict[str, Any] = json.load(answer)
                return patched
        except urllib.error.HTTPError as error:
            raise Refused(json.load(error)["message"]) from None

    def apply(self, path: str, body: dict[str, Any], manager: str) -> dict[str, Any]:
        """Server-side apply at `path`, as the operator and the driver do it. Raises Refused."""
        return self.patch(f"{path}?fieldManager={manager}&force=true", body, "apply-patch+yaml")


def make_account(kubectl: Kubectl, name: str) -> None:
    """A service account in the namespace of `kubectl`. Without a controller manager not even `default` makes itself."""
    kubectl.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}))


def make_pod(kubectl: Kubectl, name: str, account: str) -> None:
    """A pod of this account. There need be no node: for the API server it exists."""
    spec = {"serviceAccountName": account, "containers": [{"name": "main", "image": "none"}]}
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))


def log_in(kubectl: Kubectl, account: str, *, pod: str = "") -> Account:
    """This account of the namespace of `kubectl`, by a token that is bound to `pod`, as in it, or to nothing."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
    token = kubectl("create", "token", account, *bound).strip()
    cluster = yaml.safe_load(kubectl.kubeconfig.read_text())["clusters"][0]["cluster"]
    return Account(cluster["server"], b64decode(cluster["certificate-authority-data"]).decode(), token)
