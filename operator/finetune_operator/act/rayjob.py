"""A plan → the RayJob of one attempt, and the ConfigMap with its run's spec.

In: a `Plan` and the number of the attempt. Out: manifests. Which fields KubeRay acts on, and which of its defaults bite, is in
docs/decisions.md; no text of the user reaches a shell.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import yaml

from finetune_operator import names
from finetune_operator.decide.plan import Plan, PodPlan, amount
from finetune_training.contract import environment

Manifest = dict[str, Any]

_ENTRYPOINT = f"finetune run {names.JOB_FOLDER}/{names.JOB_FILE}"
_TOKENS_SINCE = (2, 52)
"""The first Ray that knows tokens: KubeRay refuses `authOptions` for an older one."""
_STORE_SHARE = Decimal("0.8")
_KEEP = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""No autoscaler moves these pods to save a node: a training that is moved is a training that starts again."""
_GRACE_SECONDS = 60
_DRAIN = {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "50"}
"""A Ray node that is told to end waits so long for what runs on it: the ranks save a checkpoint then. One on which nothing runs
ends at once. It must be over before the pod is killed."""
_LINGER = {"name": "RAY_GRACEFUL_SHUTDOWN_POLL_INTERVAL_S", "value": "5"}
"""The head looks only so often whether it can end. When all pods are told to end, Ray's control store on the head outlives so the
workers' wish to end: one that does not find it waits for it as long as for its ranks, and holds its GPUs."""
_STOP = {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "50"}
"""KubeRay has Ray stop the driver before it takes the pods away, and Ray kills it after so long: of its own accord after three
seconds, in which no step ends and no checkpoint is saved."""
_LOST_NODE_SECONDS = 60
_POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def render_rayjob(plan: Plan, attempt: int, *, out_of_memory: int = 0) -> Manifest:
    """The RayJob: a head without GPU and a gang of fixed size. KubeRay tries nothing again: attempts are ours."""
    cluster: Manifest = {
        "rayVersion": plan.platform.ray_version,
        "headGroupSpec": {
            "rayStartParams": _start(plan.head, cpus=0, gpus=0),
            "template": _head(plan, attempt, out_of_memory),
        },
        "workerGroupSpecs": [
            {
                "groupName": "worker",
                "replicas": plan.workers,
                "minReplicas": plan.workers,
                "maxReplicas": plan.workers,
                "rayStartParams": _start(plan.worker, gpus=plan.gpus_per_worker),
                "template": _worker(plan, attempt),
            }
        ],
    }
    if tuple(int(part) for part in plan.platform.ray_version.split(".")[:2]) >= _TOKENS_SINCE:
        cluster["authOptions"] = {"mode": "token"}
    return {
        "apiVersion": f"{names.RAY_GROUP}/{names.RAY_VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": names.child_name(plan.name, attempt),
            "namespace": plan.namespace,
            "labels": names.child_labels(plan.name, plan.uid, attempt),
            "ownerReferences": [_owner(names.API_VERSION, names.KIND, plan.name, plan.uid)],
        },
        "spec": {
            "entrypoint": _ENTRYPOINT,
            "submissionMode": "SidecarMode",
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": cluster,
        },
    }


def render_config_map(plan: Plan, attempt: int, rayjob_uid: str) -> Manifest:
    """The run's spec as a file. It goes with the RayJob."""
    name = names.child_name(plan.name, attempt)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.config_name(plan.name, attempt, plan.uid),
            "namespace": plan.namespace,
            "labels": names.child_labels(plan.name, plan.uid, attempt),
            "ownerReferences": [_owner(f"{names.RAY_GROUP}/{names.RAY_VERSION}", "RayJob", name, rayjob_uid)],
        },
        "data": {names.JOB_FILE: _job_file(plan)},
    }


def _job_file(plan: Plan) -> str:
    metadata = {"name": plan.name, "namespace": plan.namespace, "uid": plan.uid}
    job = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": plan.run}
    text: str = yaml.dump(job, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _owner(api_version: str, kind: str, name: str, uid: str) -> Manifest:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": True}


def _start(pod: PodPlan, *, gpus: int, cpus: int | None = None) -> dict[str, str]:
    """Options of `ray start`. The object store is in /dev/shm: of its own accord Ray takes 30 % of the pod's memory, and
    where that is more than /dev/shm has, it takes files in /tmp instead."""
    store = {"num-gpus": str(gpus), "object-store-memory": str(int(amount(pod.shm) * _STORE_SHARE))}
    return store if cpus is None else {"num-cpus": str(cpus), **store}


def _head(plan: Plan, attempt: int, out_of_memory: int) -> Manifest:
    """The only pod with a token of the API server: the driver runs here and writes `status.run`."""
    env = [
        _LINGER,
        _STOP,
        *plan.env,
        {"name": environment.ATTEMPT, "value": str(attempt)},
        {"name": environment.OUT_OF_MEMORY, "value": str(out_of_memory)},
        {"name": environment.STATUS, "value": "true"},
    ]
    return _template(plan, attempt, plan.head, container=names.HEAD, env=env, token=True)


def _worker(plan: Plan, attempt: int) -> Manifest:
    return _template(plan, attempt, plan.worker, container=names.WORKER, env=plan.env, token=False)


def _patience(tolerations: list[Manifest]) -> list[Manifest]:
    """How long a pod stays bound to a node that does not answer; Kubernetes would give it five minutes. A pool may say
    otherwise."""
    said = {each.get("key") for each in tolerations}
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST_NODE_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in said
    ]


def _once(env: list[Manifest]) -> list[Manifest]:
    """The last of each name, where a pod would take it: the schema of a RayJob refuses a name that comes twice."""
    last = {each["name"]: number for number, each in enumerate(env)}
    return [each for number, each in enumerate(env) if last[each["name"]] == number]


def _template(plan: Plan, attempt: int, pod: PodPlan, *, container: str, env: list[Manifest], token: bool) -> Manifest:
    platform = plan.platform
    # CPU is asked for, not limited: a rank that is throttled holds up all the others.
    limits = {"memory": pod.memory, **pod.resources}
    spec: Manifest = {
        "serviceAccountName": plan.service_account or names.DRIVER_ACCOUNT,
        "automountServiceAccountToken": token,
        "tolerations": [*pod.tolerations, *_patience(pod.tolerations)],
        # KubeRay's shells (waiting for the head, submitting) heed no SIGTERM as the first process of their container: they and
        # their GPUs would stay for the whole grace period.
        "shareProcessNamespace": True,
        "enableServiceLinks": False,  # a Service called `s3` would set S3_PORT
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": _POD_SECURITY,
        "containers": [
            {
                "name": container,
                "image": plan.image,
                "imagePullPolicy": platform.image_pull_policy,
                "env": _once([_DRAIN, *env]),
                "envFrom": plan.env_from,
                "resources": {"requests": {"cpu": pod.cpu, **limits}, "limits": limits},
                "securityContext": _CONTAINER_SECURITY,
                "volumeMounts": [
                    {"name": "job", "mountPath": names.JOB_FOLDER, "readOnly": True},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "job", "configMap": {"name": names.config_name(plan.name, attempt, plan.uid)}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pod.shm}},
        ],
    }
    if pod.node_selector:
        spec["nodeSelector"] = pod.node_selector
    if platform.priority_class_name:
        spec["priorityClassName"] = platform.priority_class_name
    if platform.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys(platform.image_pull_secrets)]
    labels = names.child_labels(plan.name, plan.uid, attempt)
    return {"metadata": {"labels": labels, "annotations": _KEEP}, "spec": spec}
