"""What the platform team has set: the environment of the operator's pod, and the pools file.

In: environment variables and a YAML file, both made by the chart. Out: frozen settings, or one error that names the
variable or the field that is wrong. The chart's values schema is made from `Pool`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from finetune_training.contract.record import Strict

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$", max_length=32)]
"""As Kubernetes reads it: `500m`, `4`, `16Gi`."""
Object = dict[str, Any]


class InvalidSettings(Exception):
    """The settings are wrong; the message says which and how."""


class Toleration(Strict):
    """As in a Pod."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class PodSize(Strict):
    """Requests and limits of a Ray container: both the same, so that no neighbour takes them away."""

    cpu: Quantity
    """CPU cores."""
    memory: Quantity
    """Memory, /dev/shm included."""


class Pool(Strict):
    """Nodes of one kind, by the name that jobs give in `resources.pool`."""

    node_selector: dict[str, str] = {}
    """Labels of the nodes."""
    tolerations: list[Toleration] = []
    """Taints of the nodes that workers tolerate."""
    resource_name: Annotated[str, Field(pattern=r"^[-a-z0-9.]+/[-A-Za-z0-9_.]+$")] = "nvidia.com/gpu"
    """What Kubernetes calls a GPU there: nvidia.com/gpu, amd.com/gpu, ..."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 8
    """GPUs of one node: a worker cannot have more."""
    image: str = ""
    """Image of the Ray pods. Empty: the chart's `trainingImage`."""
    worker: PodSize = PodSize(cpu="8", memory="32Gi")
    """Size of a worker pod whose job does not say."""
    extra_resources: dict[str, Quantity] = {}
    """What every worker pod asks for besides, such as `vpc.amazonaws.com/efa: 4` or `rdma/hca: 1`."""
    shm_size: Quantity = "8Gi"
    """Size of /dev/shm in a worker pod; it counts as the pod's memory."""


class Head(Strict):
    """Where the head pods run: CPU nodes; a head has no GPU."""

    node_selector: dict[str, str] = {}
    """Labels of the nodes."""
    tolerations: list[Toleration] = []
    """Taints of the nodes that heads tolerate."""
    size: PodSize = PodSize(cpu="2", memory="8Gi")
    """Size of a head pod whose job does not say."""


class Platform(Strict):
    """The pools file: what jobs may ask for, and what they get when they do not ask."""

    gpu_pools: dict[Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)], Pool] = {}
    """The pools, by name."""
    head: Head = Head()
    """The head pods of all jobs."""
    training_image: Annotated[str, Field(min_length=1)] = "finetune-training:0.1.0"
    """Image of the Ray pods, where neither job nor pool names one."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the image of Ray pods."""
    image_pull_secrets: list[str] = []
    """Secrets, in the namespace of each job, to pull it with."""
    ray_version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+")] = "2.60.0"
    """Version of Ray in the image: KubeRay decides by it."""
    checkpoint_uri: str = ""
    """Where runs live when the job does not say: `s3://bucket/folder`."""
    env: list[Object] = []
    """Variables of every Ray container, as in a Pod; those of a job come later and win."""
    priority_class_name: str = ""
    """Priority class of the Ray pods."""


class Settings(Strict):
    """Environment variables, by the names in `_VARIABLES`."""

    platform: Platform = Platform()
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch. None: all."""
    driver_role: tuple[Literal["ClusterRole", "Role"], str] = ("ClusterRole", "finetune-operator-driver")
    """The role that lets a driver write `status.run`: bound in each namespace that has jobs."""
    workers: Annotated[int, Field(ge=1, le=256)] = 8
    """Jobs that are worked on at the same time."""
    resync_seconds: Annotated[float, Field(gt=0)] = 300
    """Seconds between two looks at everything."""
    health_port: int = 8080
    metrics_port: int = 8081
    leader_election: bool = False
    """Wait for the Lease before doing anything: for more than one replica."""
    lease_namespace: str = "default"
    lease_name: str = "finetune-operator"
    identity: str = "finetune-operator"
    """Who holds the Lease, and who has posted an Event: the pod's name."""
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


_VARIABLES = {
    "FINETUNE_NAMESPACES": "namespaces",
    "FINETUNE_DRIVER_ROLE": "driver_role",
    "FINETUNE_WORKERS": "workers",
    "FINETUNE_RESYNC_SECONDS": "resync_seconds",
    "FINETUNE_HEALTH_PORT": "health_port",
    "FINETUNE_METRICS_PORT": "metrics_port",
    "FINETUNE_LEADER_ELECTION": "leader_election",
    "FINETUNE_LEASE_NAMESPACE": "lease_namespace",
    "FINETUNE_LEASE_NAME": "lease_name",
    "FINETUNE_IDENTITY": "identity",
    "FINETUNE_LOG_FORMAT": "log_format",
    "FINETUNE_LOG_LEVEL": "log_level",
}
_LISTS = {"namespaces": ",", "driver_role": "/"}
_PLATFORM = "FINETUNE_PLATFORM_FILE"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in `environment` and in the file that FINETUNE_PLATFORM_FILE names. Raises InvalidSettings."""
    fields: dict[str, Any] = {}
    for variable, field in _VARIABLES.items():
        if text := environment.get(variable, "").strip():
            fields[field] = _parts(text, _LISTS[field]) if field in _LISTS else text
    if path := environment.get(_PLATFORM):
        fields["platform"] = read_platform(Path(path))
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        variables = {field: variable for variable, field in _VARIABLES.items()}
        wrong = [f"{variables.get(str(each['loc'][0]), each['loc'][0])}: {each['msg']}" for each in error.errors()]
        raise InvalidSettings("\n".join(wrong)) from None


def _parts(text: str, separator: str) -> list[str]:
    """An empty name would be every namespace."""
    return [part.strip() for part in text.split(separator) if part.strip()]


def read_platform(path: Path) -> Platform:
    """The pools file. Raises InvalidSettings."""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return TypeAdapter(Platform).validate_python(body)
    except (OSError, yaml.YAMLError) as error:
        raise InvalidSettings(f"{path}: {error}") from None
    except ValidationError as error:
        wrong = [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise InvalidSettings("\n".join(wrong)) from None
