"""Every name that the operator shares with others, once: those of the contract, labels, children, containers.

Labels and child names are deterministic, so that an operator that has just started finds what an earlier one made.
"""

from __future__ import annotations

from typing import Final

from finetune_training.contract.names import API_VERSION as API_VERSION
from finetune_training.contract.names import DRIVER_MANAGER as DRIVER_MANAGER
from finetune_training.contract.names import GROUP as GROUP
from finetune_training.contract.names import JOB_NAME_MAX as JOB_NAME_MAX
from finetune_training.contract.names import KIND as KIND
from finetune_training.contract.names import OPERATOR_MANAGER as OPERATOR_MANAGER
from finetune_training.contract.names import PLURAL as PLURAL
from finetune_training.contract.names import VERSION as VERSION

SHORT: Final = "ftj"

RAY_GROUP: Final = "ray.io"
RAY_VERSION: Final = "v1"
RAYJOBS: Final = "rayjobs"

JOB_LABEL: Final = f"{GROUP}/job"
UID_LABEL: Final = f"{GROUP}/job-uid"
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"
"""On every child and every pod: whose it is, and of which attempt."""
MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "finetune-operator"}
NODE_TYPE_LABEL: Final = "ray.io/node-type"
"""KubeRay's own, on the pods that it makes."""

HEAD, WORKER = "ray-head", "ray-worker"
"""The Ray containers of a head and of a worker."""
SUBMITTER: Final = "ray-job-submitter"
"""KubeRay's own, in the head: where the driver's end is seen."""

DRIVER_ACCOUNT: Final = "finetune-driver"
"""The account of the pods in each namespace, and the binding that lets it write `status.run`."""

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
