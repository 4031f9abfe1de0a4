"""A bare HTTP client of the API server, which costs as little as one in Python can, and the jobs that are created by it."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml

T = TypeVar("T")
CLIENTS = 16
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MANAGER = "fieldManager=finetune-operator"


class Refused(Exception):
    """The API server has said no."""


class Api:
    """Requests with bodies that are bytes already."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session, self._server = session, server

    async def send(self, method: str, path: str, body: bytes | None, kind: str = _JSON, accept: str = _JSON) -> bytes:
        """What the API server answers. An error is raised."""
        headers = {"Content-Type": kind, "Accept": accept}
        async with self._session.request(method, self._server + path, data=body, headers=headers) as answer:
            text = await answer.read()
            if answer.status >= 300:
                raise Refused(f"{answer.status} of {method} {path}: {text[:500]!r}")
            return text

    async def apply(self, path: str, body: bytes) -> None:
        """Server-side apply, as the operator does it."""
        await self.send("PATCH", f"{path}?{MANAGER}&force=true", body, _APPLY, METADATA)

    async def post(self, path: str, body: bytes) -> Any:
        """Create, as the operator does it."""
        return json.loads(await self.send("POST", f"{path}?{MANAGER}&fieldValidation=Strict", body))


@asynccontextmanager
async def connect(kubeconfig: Path, connections: int) -> AsyncIterator[Api]:
    """By the certificate in a kubeconfig of the tests' clusters."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    connector = aiohttp.TCPConnector(limit=connections, ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(session, cluster["server"])


async def by_clients(items: Iterable[T], work: Callable[[T], Awaitable[object]], clients: int = CLIENTS) -> None:
    """Each client takes the next item when it is done with the last one."""
    rest = iter(items)

    async def client() -> None:
        for item in rest:
            await work(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())


def job(namespace: str, name: str) -> dict[str, Any]:
    """A FineTuneJob as a user writes it."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://EleutherAI/gpt-j-6b"},
            "dataset": {
                "train": [{"uri": "s3://data/shakespeare/*.txt", "sampleBy": "Document"}],
                "validation": {"fraction": 0.02},
                "maxLength": 512,
            },
            "method": {"type": "Full"},
            "training": {"epochs": 1, "globalBatchSize": 64, "microBatchSize": 2, "precision": "BF16"},
            "deepspeed": {"stage": 3, "offload": "OptimizerAndParameters"},
            "checkpoint": {"uri": "s3://models/runs", "everySteps": 50},
            "output": [{"uri": f"s3://models/{name}", "format": "Merged"}],
            "resources": {"pool": "a10g", "workers": 8, "gpusPerWorker": 4},
        },
    }


def jobs_path(namespace: str) -> str:
    return f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"


def rayjobs_path(namespace: str) -> str:
    return f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"


async def create_job(api: Api, namespace: str, name: str) -> str:
    """Returns its uid."""
    made = json.loads(await api.send("POST", jobs_path(namespace), json.dumps(job(namespace, name)).encode()))
    return str(made["metadata"]["uid"])
