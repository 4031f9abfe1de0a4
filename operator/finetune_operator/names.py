"""Every name that the operator shares with others, once: API group, labels, children, field managers.

Labels and child names are deterministic, so that an operator that has just started finds what an earlier one made.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FineTuneJob"
PLURAL: Final = "finetunejobs"
SHORT: Final = "ftj"

RAY_GROUP: Final = "ray.io"
RAY_VERSION: Final = "v1"
RAYJOBS: Final = "rayjobs"

# On every child and every pod: whose it is, and of which attempt.
JOB_LABEL: Final = f"{GROUP}/job"
UID_LABEL: Final = f"{GROUP}/job-uid"
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"
MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "finetune-operator"}
# KubeRay's own, on the pods that it makes.
NODE_TYPE_LABEL: Final = "ray.io/node-type"

# Server-side apply: the operator owns its children and status but for `run`; the driver owns `status.run`.
OPERATOR_MANAGER: Final = "finetune-operator"
DRIVER_MANAGER: Final = "finetune-driver"

# The account of the pods in each namespace, and the binding that lets it write `status.run`.
DRIVER_ACCOUNT: Final = "finetune-driver"

# KubeRay allows 47 characters for a RayJob; the attempt's suffix takes up to five.
JOB_NAME_MAX: Final = 42

JOB_FOLDER: Final = "/etc/finetune"
JOB_FILE: Final = "job.yaml"


def child_name(job: str, attempt: int) -> str:
    """The RayJob of one attempt."""
    return f"{job}-{attempt}"


def config_name(job: str, attempt: int, uid: str) -> str:
    """The ConfigMap with the spec of its run. One of that name is ours, because the job's uid is in it."""
    return f"{child_name(job, attempt)}-{uid[:8]}"


def child_labels(job: str, uid: str, attempt: int) -> dict[str, str]:
    """The labels of what belongs to one attempt of `job`."""
    return MANAGED_BY | {JOB_LABEL: job, UID_LABEL: uid, ATTEMPT_LABEL: str(attempt)}


def job_key(namespace: str, name: str) -> str:
    """A job among all: the key of store and queue."""
    return f"{namespace}/{name}"
