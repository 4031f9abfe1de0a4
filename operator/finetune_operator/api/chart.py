"""The values of the Helm chart as models → its values.schema.json; the CRD → the file that the chart applies.

In: the models below, `settings.Platform` and `crd.definition()`. Out: one of the two files on standard output, by
`python -m finetune_operator.api.chart schema | crd`; a test keeps the committed ones fresh, and another compares the defaults
here with values.yaml, where each is explained to people.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from finetune_operator.api import crd
from finetune_operator.settings import Head, Object, Platform, Pool
from finetune_training.contract.record import Strict

PLATFORM = Platform()
Text = Annotated[str, Field(max_length=253)]
Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
PoolName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
Strings = dict[str, str]


class Image(Strict):
    """An image: repository, and a tag or a digest."""

    repository: Annotated[str, Field(min_length=1)]
    """Registry and name, without a tag."""
    tag: str = ""
    """Empty: the chart's appVersion."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """`sha256:...` pins the content; the tag is then for people only."""
    pull_policy: PullPolicy = "IfNotPresent"
    """When nodes pull it."""
    pull_secrets: list[Text] = []
    """Names of the Secrets to pull it with."""


class OperatorImage(Image):
    """The image of the operator's pod. Its Secrets are in the release's namespace."""

    repository: Annotated[str, Field(min_length=1)] = "finetune-operator"


class TrainingImage(Image):
    """The image of the Ray pods, where neither job nor pool names one. Its Secrets are in the namespace of each job."""

    repository: Annotated[str, Field(min_length=1)] = "finetune-training"
    ray_version: Annotated[str, Field(min_length=1)] = PLATFORM.ray_version
    """Version of Ray in the image: KubeRay decides by it."""


class Jobs(Strict):
    """What all jobs get."""

    checkpoint_uri: str = PLATFORM.checkpoint_uri
    """Where runs live when the job does not say: `s3://bucket/folder`."""
    env: list[Object] = PLATFORM.env
    """Variables of every Ray container, as in a Pod; those of a job come later and win."""
    priority_class_name: Text = PLATFORM.priority_class_name
    """Priority class of the Ray pods."""


class Watch(Strict):
    """Which jobs the operator works on."""

    namespaces: Annotated[list[Namespace], Field(json_schema_extra={"uniqueItems": True})] = []
    """Only these namespaces, by Roles in each. Empty: all, by a ClusterRole."""


class Crds(Strict):
    """The CustomResourceDefinition."""

    install: bool = True
    """Install and upgrade it with the release."""
    keep: bool = True
    """Leave it, and with it all jobs, when the release is uninstalled."""


class ServiceAccount(Strict):
    """The operator's account."""

    create: bool = True
    """Whether the chart makes it."""
    name: Text = ""
    """Empty: the release's full name, or `default` if the chart does not make it."""
    annotations: Strings = {}
    """For a cloud's workload identity, for example."""


class Rbac(Strict):
    """Rights."""

    create: bool = True
    """Roles and bindings of the operator and of the drivers."""
    user_roles: bool = True
    """ClusterRoles for FineTuneJobs that aggregate to view, edit and admin."""


class AdmissionPolicy(Strict):
    """The policy that lets a job's pods change `status.run` of that job, and nothing else."""

    create: bool = True
    """Whether the chart makes it."""
    exempt_users: list[Text] = []
    """User names that it lets through, such as that of a backup tool which restores status."""


class LeaderElection(Strict):
    """One replica works, the others wait for its Lease."""

    enabled: bool = False
    """Needed for more than one replica."""


class Log(Strict):
    """The operator's log, on standard output."""

    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsService(Strict):
    """A Service for /metrics."""

    enabled: bool = False
    annotations: Strings = {}
    """Such as prometheus.io/scrape."""


class PodMonitor(Strict):
    """A PodMonitor of the Prometheus operator."""

    enabled: bool = False
    """Needs its CRDs (monitoring.coreos.com)."""
    labels: Strings = {}
    """Labels by which your Prometheus selects it."""
    interval: Annotated[str, Field(pattern=r"^([0-9]+(ms|s|m|h))+$")] = "30s"
    """Time between two scrapes."""
    relabelings: list[Object] = []
    """As in a PodMonitor."""


class Metrics(Strict):
    """Who reads /metrics, port 8081 of the operator's pod."""

    service: MetricsService = MetricsService()
    pod_monitor: PodMonitor = PodMonitor()


class PodDisruptionBudget(Strict):
    """How many of the operator's pods a drain may take away at a time."""

    enabled: bool = False
    max_unavailable: Annotated[int, Field(ge=1)] = 1
    """At least 1: with 0, nodes could not be drained."""


class ApiServerAddress(Strict):
    """Where the API server is, as seen from a pod."""

    cidr: str = ""
    """Its addresses. Empty: any."""
    ports: Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1)] = [443, 6443]
    """Its ports, of the Service and of the server itself: network plugins differ in which they see."""


class NetworkPolicy(Strict):
    """Who may speak to the operator's pod, and to whom it may speak."""

    enabled: bool = False
    metrics_from: list[Object] = []
    """Peers that may read the metrics, as in a NetworkPolicy. Empty: all."""
    api_server: ApiServerAddress = ApiServerAddress()


class Resources(Strict):
    """Of the operator's container."""

    requests: dict[str, str | int | float] = {"cpu": "100m", "memory": "128Mi"}
    limits: dict[str, str | int | float] = {"memory": "512Mi"}


class Values(Strict):
    """Values of the Helm chart finetune-operator."""

    name_override: Text = ""
    """In place of the chart's name in names and labels."""
    fullname_override: Text = ""
    """In place of all of the release's full name."""
    labels: Strings = {}
    """Labels of every object."""
    gpu_pools: dict[PoolName, Pool] = PLATFORM.gpu_pools
    """The pools of GPU nodes, by the names that jobs give in `resources.pool`."""
    head: Head = PLATFORM.head
    """Where the head pods of jobs run: CPU nodes; a head has no GPU."""
    training_image: TrainingImage = TrainingImage()
    jobs: Jobs = Jobs()
    watch: Watch = Watch()
    crds: Crds = Crds()
    image: OperatorImage = OperatorImage()
    replicas: Annotated[int, Field(ge=0, le=16)] = 1
    """More than one needs `leaderElection.enabled`."""
    leader_election: LeaderElection = LeaderElection()
    workers: Annotated[int, Field(ge=1, le=256)] = 8
    """Jobs that are worked on at the same time."""
    resync_seconds: Annotated[float, Field(gt=0)] = 300
    """Seconds between two looks at everything."""
    log: Log = Log()
    service_account: ServiceAccount = ServiceAccount()
    rbac: Rbac = Rbac()
    admission_policy: AdmissionPolicy = AdmissionPolicy()
    metrics: Metrics = Metrics()
    pod_disruption_budget: PodDisruptionBudget = PodDisruptionBudget()
    network_policy: NetworkPolicy = NetworkPolicy()
    priority_class_name: Text = ""
    """Priority class of the operator's pod."""
    resources: Resources = Resources()
    extra_env: list[Object] = []
    """More variables of the operator's container, as in a Pod."""
    extra_env_from: list[Object] = []
    """Sources of variables, as in a Pod."""
    extra_volumes: list[Object] = []
    """More volumes of the operator's pod."""
    extra_volume_mounts: list[Object] = []
    """Where they are mounted."""
    pod_annotations: Strings = {}
    pod_labels: Strings = {}
    node_selector: Strings = {}
    tolerations: list[Object] = []
    affinity: Object = {}
    topology_spread_constraints: list[Object] = []
    pod_security_context: Object = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    """Of the operator's pod, and of the pod of `helm test`."""
    security_context: Object = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    """Of their containers."""
    termination_grace_period_seconds: Annotated[int, Field(ge=0)] = 30
    """Seconds that the operator has to end what it is doing."""
    global_: Annotated[Object, Field(alias="global")] = {}
    """Not used. Helm puts it there when this chart is part of another."""


def schema() -> str:
    """values.schema.json. Draft 7, which every Helm reads: nothing in it is newer."""
    body = Values.model_json_schema(by_alias=True)
    head = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return json.dumps(head | _strict(body), indent=2, sort_keys=True) + "\n"


def crd_file() -> str:
    """The CustomResourceDefinition as YAML."""
    text = yaml.safe_dump(crd.definition(), sort_keys=True, width=120, allow_unicode=True)
    return f"# Generated from the models in operator/finetune_operator by `make generate`.\n{text}"


def _strict(node: Any) -> Any:
    """Without pydantic's titles, which only say again what a field is called; with pool names that must match."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    # A property may be called `title`: then it is an object.
    kept = {key: _strict(each) for key, each in node.items() if not (key == "title" and isinstance(each, str))}
    return kept | {"additionalProperties": False} if "patternProperties" in kept else kept


if __name__ == "__main__":
    print({"schema": schema, "crd": crd_file}[sys.argv[1]](), end="")
