"""A FineTuneJob as the cluster has it: the run's spec, and where and how it lives.

In: the spec of the API server's object. Out: a frozen `FineTuneJobSpec`, or a `LiveSpec` of it. The run's part is
`finetune_training.contract.spec`; what is added here is ignored on a laptop. The docstring under a field is its text in
`kubectl explain` and in docs/fields.md.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from finetune_operator.settings import Quantity
from finetune_training.contract.record import Strict
from finetune_training.contract.spec import CheckpointSpec, DeepSpeed, Resources, RunSpec, Training


class PodResources(Strict):
    """Requests and limits of one pod's Ray container: both are the same, so that no neighbour takes them away."""

    cpu: Quantity | None = None
    """CPU cores. Missing: as the platform team has set for the pool."""
    memory: Quantity | None = None
    """Memory, /dev/shm included. Missing: as the platform team has set for the pool."""


class JobResources(Resources):
    """Where the run takes place."""

    pool: Annotated[str, Field(min_length=1, max_length=63)]
    """The pool of GPU nodes: a name of the chart's `gpuPools`."""
    worker: PodResources = PodResources()
    """Each worker pod."""
    head: PodResources = PodResources()
    """The head pod, which has no GPU: it starts the work and reports."""


class JobCheckpoint(CheckpointSpec):
    """Where the run lives, and how often it is saved."""

    uri: Annotated[str, Field(max_length=2048)] = ""
    """Folder for runs in an object store, such as `s3://bucket/folder`. Empty: as the platform team has set."""


class EnvVar(Strict):
    """A variable, as in a Pod."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Its name."""
    value: Annotated[str, Field(max_length=32_768)] | None = None
    """Its value."""
    value_from: dict[str, Any] | None = None
    """Where its value comes from, as in a Pod: `secretKeyRef`, `configMapKeyRef`, `fieldRef`."""


class SourceReference(Strict):
    """A Secret or ConfigMap of the job's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Its name."""
    optional: bool | None = None
    """Whether the pods start without it."""


class EnvFromSource(Strict):
    """Variables from all keys of a Secret or a ConfigMap, as in a Pod."""

    prefix: Annotated[str, Field(max_length=253)] | None = None
    """Put before every key."""
    secret_ref: SourceReference | None = None
    """A Secret, such as one with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, HF_TOKEN."""
    config_map_ref: SourceReference | None = None
    """A ConfigMap."""


class Pods(Strict):
    """What its pods are made of."""

    image: Annotated[str, Field(max_length=512)] = ""
    """Image of the Ray pods. Empty: the pool's, or the chart's."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = []
    """Variables of the Ray containers."""
    env_from: Annotated[list[EnvFromSource], Field(max_length=16)] = []
    """Sources of variables of the Ray containers."""
    service_account_name: Annotated[str, Field(max_length=253)] = ""
    """Account of the pods, for a cloud's workload identity. Empty: one that may do nothing but report progress."""


class Life(Strict):
    """How it lives: the names of batch/v1 Job."""

    suspend: bool = False
    """Take the pods away; false again: run on from the last checkpoint."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failed attempts after which the job has failed, less one: 0 is a single attempt."""
    active_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """Seconds after which the job has failed, whatever it does. Suspension sets them back."""
    pending_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """Seconds in which each attempt must have all its pods running, or the job has failed. Time in a queue (Kueue) and
    suspension do not count."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Seconds after its end in which the children of the job are deleted. The job and its status stay."""


class FineTuneJobSpec(Life, Pods, RunSpec):
    """What is trained, where it runs and how it lives."""

    checkpoint: JobCheckpoint = JobCheckpoint()
    resources: JobResources


class LiveSpec(Life):
    """What of a spec decides while the job lives; no field has to be there. Whether an attempt can be made of it all is
    another question (decide/plan.py)."""

    resources: Resources = Resources()
    training: Training = Training()
    deepspeed: DeepSpeed = DeepSpeed()
