"""The plans whose manifests are written down in golden/: from the smallest job to one that sets everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_operator.decide.plan import Plan, plan
from finetune_operator.observe.views import view_job
from finetune_operator.settings import Platform
from tests.unit.operator.worlds import PLATFORM, job

GOLDEN = Path(__file__).parent / "golden"

_EVERYTHING = Platform.model_validate(
    {
        "gpuPools": {
            "h100-spot": {
                "nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
                "tolerations": [
                    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                    {"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"},
                ],
                "gpusPerNode": 8,
                "image": "registry/training:h100",
                "worker": {"cpu": "100", "memory": "1Ti"},
                "extraResources": {"vpc.amazonaws.com/efa": "4"},
                "shmSize": "64Gi",
            }
        },
        "head": {
            "nodeSelector": {"pool": "cpu"},
            "tolerations": [{"key": "cpu-only", "operator": "Exists"}],
            "size": {"cpu": "4", "memory": "16Gi"},
        },
        "trainingImage": "registry/training:1",
        "imagePullPolicy": "Always",
        "imagePullSecrets": ["registry", "mirror", "registry"],
        "checkpointUri": "s3://runs",
        "env": [{"name": "HF_ENDPOINT", "value": "https://mirror"}, {"name": "NCCL_DEBUG", "value": "WARN"}],
        "priorityClassName": "training",
    }
)
_AMD = Platform.model_validate(
    {
        "gpuPools": {"mi300": {"resourceName": "amd.com/gpu"}},
        "trainingImage": "registry/training:rocm",
        "checkpointUri": "s3://runs",
    }
)


def _plan(platform: Platform = PLATFORM, name: str = "plays", **changes: Any) -> Plan:
    return plan(view_job(job(name, **changes)), platform)


def plans() -> dict[str, tuple[Plan, int]]:
    """By the names of the files: a plan, and the number of an attempt."""
    everything = _plan(
        _EVERYTHING,
        resources={
            "pool": "h100-spot",
            "workers": 4,
            "gpusPerWorker": 8,
            "worker": {"cpu": "96", "memory": "900Gi"},
            "head": {"cpu": "2500m", "memory": "3G"},
        },
        env=[
            {"name": "NCCL_DEBUG", "value": "INFO"},
            {"name": "FINETUNE_ATTEMPT", "value": "7"},
            {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}},
        ],
        envFrom=[
            {"secretRef": {"name": "s3-credentials"}},
            {"prefix": "X_", "configMapRef": {"name": "settings", "optional": True}},
        ],
        serviceAccountName="trainer",
        checkpoint={"uri": "s3://mine", "everySteps": 100, "keep": 3},
        dataset={
            "train": [{"uri": "s3://data/*.jsonl"}],
            "chatTemplate": "{% for m in messages %}\n{{ m.content }} – „so“ $(rm) `x`\n{% endfor %}",
        },
        output=[{"format": "Merged", "uri": "s3://models/plays"}],
    )
    return {
        "smallest": (_plan(), 1),
        "everything": (everything, 2),
        "cpu-only": (_plan(resources={"pool": "cpu", "gpusPerWorker": 0, "workers": 2}), 1),
        "amd": (_plan(_AMD, resources={"pool": "mi300", "gpusPerWorker": 8}), 1),
        "long-name": (_plan(name="a" * 42), 1234),
        "ray-without-tokens": (_plan(PLATFORM.model_copy(update={"ray_version": "2.51.1"})), 1),
    }
