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

from benchmarks.waiting import STILL, Failed
from finetune_operator import names

T = TypeVar("T")
CLIENTS = 16
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_JSON = "application/json"


class Refused(Failed):
    """The API server has said no."""


class Api:
    """Requests with bodies that are bytes already."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session, self._server = session, server

    async def send(self, method: str, path: str, body: bytes | None, kind: str = _JSON, accept: str = _JSON) -> bytes:
        """What the API server answers. Raises Refused, and Failed without an answer."""
        headers = {"Content-Type": kind, "Accept": accept}
        try:
            async with self._session.request(method, self._server + path, data=body, headers=headers) as answer:
                text = await answer.read()
        except TimeoutError:
            raise Failed(
                f"gave up after {STILL:.0f} s of waiting for the API server's answer to {method} {path}"
            ) from None
        except aiohttp.ClientError as error:
            raise Failed(f"the API server does not answer {method} {path}: {error}") from error
        if answer.status >= 300:
            raise Refused(
                f"the API server refuses {method} {path} with {answer.status}: {text[:500].decode(errors='replace')}"
            )
        return text


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
    timeout = aiohttp.ClientTimeout(total=STILL)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
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
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
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
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"


def rayjobs_path(namespace: str) -> str:
    return f"/apis/{names.RAY_GROUP}/{names.RAY_VERSION}/namespaces/{namespace}/{names.RAYJOBS}"


async def create_job(api: Api, namespace: str, name: str) -> str:
    """Returns its uid."""
    made = json.loads(await api.send("POST", jobs_path(namespace), json.dumps(job(namespace, name)).encode()))
    return str(made["metadata"]["uid"])
