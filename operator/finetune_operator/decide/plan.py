"""What a job asks for, and what the platform has → what its pods are to be.

In: the spec of a FineTuneJob and the platform's pools. Out: a `Plan`, every default filled in, or `InvalidJob`: what is wrong,
in which field, and what to do. This is the third ring of validation, after the schema and the CEL rules of the CRD: what only
the platform knows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from finetune_operator.api.job import FineTuneJobSpec
from finetune_operator.observe.views import JobView
from finetune_operator.settings import Head, Platform, Pool
from finetune_training.contract.batch import batch_of
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import CLUSTER_FIELDS, CLUSTER_RESOURCE_FIELDS

_STORES = ("s3://", "gs://", "az://")
"""Those of finetune_training.store.storage that outlive a pod."""
_UNITS: dict[str, Decimal | int] = {
    "": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


class InvalidJob(Exception):
    """No attempt of this job can succeed. `message` names field, problem and remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True)
class PodPlan:
    """One kind of Ray pod. `cpu`, `memory` and `shm` are Kubernetes quantities."""

    cpu: str
    memory: str
    shm: str
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]
    resources: dict[str, str]
    """What it asks for besides CPU and memory: GPUs and what the pool adds."""


@dataclass(frozen=True)
class Plan:
    """All that rendering needs. `run`: the run's spec, as `finetune run` reads it."""

    namespace: str
    name: str
    uid: str
    run: dict[str, Any]
    workers: int
    gpus_per_worker: int
    worker: PodPlan
    head: PodPlan
    image: str
    env: list[dict[str, Any]]
    env_from: list[dict[str, Any]]
    service_account: str
    """Empty: the driver's own."""
    platform: Platform


def plan(job: JobView, platform: Platform) -> Plan:
    """Raises InvalidJob."""
    body = json.loads(job.spec)
    spec = _parsed(body)
    pool = _pool(spec, platform)
    _check_batch(spec)
    uri = spec.checkpoint.uri or platform.checkpoint_uri
    _check_uris(spec, uri)
    resources = {key: value for key, value in body["resources"].items() if key not in CLUSTER_RESOURCE_FIELDS}
    run = {key: value for key, value in body.items() if key not in CLUSTER_FIELDS}
    return Plan(
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        run=run | {"resources": resources, "checkpoint": body.get("checkpoint", {}) | {"uri": uri}},
        workers=spec.resources.workers,
        gpus_per_worker=spec.resources.gpus_per_worker,
        worker=_worker(spec, pool),
        head=_head(spec, platform.head),
        image=spec.image or pool.image or platform.training_image,
        env=[*platform.env, *body.get("env", ())],
        env_from=list(body.get("envFrom", ())),
        service_account=spec.service_account_name,
        platform=platform,
    )


def amount(quantity: str) -> Decimal:
    """The number that a Kubernetes quantity stands for."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return Decimal(number) * _UNITS[unit]


def _parsed(body: dict[str, Any]) -> FineTuneJobSpec:
    try:
        return FineTuneJobSpec.model_validate(body)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, ('spec', *each['loc'])))}: {_said(each['msg'])}"
            for each in error.errors(include_url=False)
        ]
        raise InvalidJob("; ".join(wrong) + ". Correct it in a new job: a spec does not change.") from None


def _said(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _pool(spec: FineTuneJobSpec, platform: Platform) -> Pool:
    asked = spec.resources
    if asked.pool not in platform.gpu_pools:
        known = ", ".join(sorted(platform.gpu_pools)) or "none: the platform team names them in the chart's gpuPools"
        raise InvalidJob(
            f"spec.resources.pool: there is no pool {asked.pool!r}. Use one of those that there are: {known}."
        )
    pool = platform.gpu_pools[asked.pool]
    if asked.gpus_per_worker > pool.gpus_per_node:
        raise InvalidJob(
            f"spec.resources.gpusPerWorker: {asked.gpus_per_worker} do not fit a node of pool {asked.pool}, which has "
            f"{pool.gpus_per_node}. Use at most {pool.gpus_per_node}, and more workers."
        )
    return pool


def _check_batch(spec: FineTuneJobSpec) -> None:
    try:
        batch_of(spec, ranks=spec.resources.ranks)
    except FinetuneError as error:
        raise InvalidJob(f"{error.failure.message} {error.failure.remedy}") from None


def _check_uris(spec: FineTuneJobSpec, checkpoint_uri: str) -> None:
    if not checkpoint_uri:
        raise InvalidJob(
            "spec.checkpoint.uri: is needed, because the platform team has set no default (the chart's jobs.checkpointUri). "
            "Name a folder in an object store, such as s3://bucket/folder."
        )
    _check_store("spec.checkpoint.uri", checkpoint_uri, "such as s3://bucket/folder")
    if other := spec.checkpoint.resume_from.uri:
        _check_store("spec.checkpoint.resumeFrom.uri", other, "where the other run's checkpoints are")
    for number, output in enumerate(spec.output):
        if output.uri:
            _check_store(f"spec.output[{number}].uri", output.uri, "or leave it out: it is in the run's result/ anyway")


def _check_store(field: str, uri: str, remedy: str) -> None:
    if uri.startswith(_STORES):
        return
    scheme = uri.split("://")[0] if "://" in uri else "file"
    problem = f"is no object store ({scheme}://)" if scheme != "file" else "is a folder of a pod and would go with it"
    raise InvalidJob(f"{field}: {uri} {problem}. Name a folder in an object store ({', '.join(_STORES)}), {remedy}.")


def _worker(spec: FineTuneJobSpec, pool: Pool) -> PodPlan:
    asked, gpus = spec.resources.worker, spec.resources.gpus_per_worker
    memory = asked.memory or pool.worker.memory
    return PodPlan(
        cpu=asked.cpu or pool.worker.cpu,
        memory=memory,
        shm=_shm(pool.shm_size, memory),
        node_selector=pool.node_selector,
        tolerations=_dumped(pool.tolerations),
        resources=pool.extra_resources | ({pool.resource_name: str(gpus)} if gpus else {}),
    )


def _head(spec: FineTuneJobSpec, head: Head) -> PodPlan:
    asked = spec.resources.head
    memory = asked.memory or head.size.memory
    return PodPlan(
        cpu=asked.cpu or head.size.cpu,
        memory=memory,
        shm=_shm("2Gi", memory),
        node_selector=head.node_selector,
        tolerations=_dumped(head.tolerations),
        resources={},
    )


def _shm(wanted: str, memory: str) -> str:
    """/dev/shm counts as the pod's memory, so it takes at most half of it."""
    half = amount(memory) / 2
    return wanted if amount(wanted) <= half else str(int(half))


def _dumped(tolerations: list[Any]) -> list[dict[str, Any]]:
    return [each.model_dump(by_alias=True, exclude_defaults=True) for each in tolerations]
