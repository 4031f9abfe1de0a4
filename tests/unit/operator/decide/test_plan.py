"""What a job asks for, and what the platform has → what its pods are to be."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from finetune_operator.decide.plan import InvalidJob, Plan, amount, plan
from finetune_operator.observe.views import view_job
from finetune_operator.settings import Platform
from tests.unit.operator.worlds import PLATFORM, Object, job

BARE = Platform.model_validate({"gpuPools": {"a100": {}}})


def planned(platform: Platform = PLATFORM, **changes: Any) -> Plan:
    return plan(view_job(job(**changes)), platform)


def test_the_run_has_its_half_of_the_spec_and_the_cluster_keeps_the_other() -> None:
    made = planned(
        resources={"pool": "a100", "workers": 2, "gpusPerWorker": 8, "head": {"cpu": "1"}},
        image="mine",
        env=[{"name": "A", "value": "1"}],
        backoffLimit=1,
        checkpoint={"keep": 5},
    )
    assert made.run["resources"] == {"workers": 2, "gpusPerWorker": 8}
    assert made.run["checkpoint"] == {"uri": "s3://runs", "everySteps": 500, "keep": 5, "resumeFrom": {"uri": ""}}
    assert made.run["model"]["uri"] == "hf://owner/model"
    assert made.run.keys() == {
        "model", "dataset", "method", "training", "deepspeed", "checkpoint", "evaluation", "output", "resources",
    }  # fmt: skip


def test_the_job_says_where_its_run_lives_before_the_platform_does() -> None:
    assert planned(checkpoint={"uri": "s3://mine"}).run["checkpoint"]["uri"] == "s3://mine"
    assert planned().run["checkpoint"]["uri"] == "s3://runs"


@pytest.mark.parametrize(
    ("job_image", "pool_image", "image"),
    [("job", "pool", "job"), ("", "pool", "pool"), ("", "", "chart")],
)
def test_the_image_is_that_of_the_job_or_the_pool_or_the_chart(job_image: str, pool_image: str, image: str) -> None:
    platform = Platform.model_validate(
        {"gpuPools": {"a100": {"image": pool_image}}, "trainingImage": "chart", "checkpointUri": "s3://runs"}
    )
    assert planned(platform, image=job_image).image == image


def test_a_workers_size_is_the_pools_unless_the_job_says() -> None:
    size = {"cpu": "32", "memory": "200Gi"}
    platform = Platform.model_validate(
        {
            "gpuPools": {
                "a100": {
                    "worker": size,
                    "nodeSelector": {"gpu": "a100"},
                    "tolerations": [
                        {"key": "gpu", "operator": "Exists"},
                        {"key": "spot", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 30},
                    ],
                    "extraResources": {"vpc.amazonaws.com/efa": "4"},
                    "resourceName": "amd.com/gpu",
                    "shmSize": "64Gi",
                }
            },
            "checkpointUri": "s3://runs",
        }
    )
    worker = planned(platform, resources={"pool": "a100", "gpusPerWorker": 8}).worker
    assert (worker.cpu, worker.memory, worker.shm) == ("32", "200Gi", "64Gi")
    assert worker.resources == {"vpc.amazonaws.com/efa": "4", "amd.com/gpu": "8"}
    assert worker.node_selector == {"gpu": "a100"}
    assert worker.tolerations == [
        {"key": "gpu", "operator": "Exists"},
        {"key": "spot", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 30},
    ]
    own = planned(platform, resources={"pool": "a100", "worker": {"memory": "8Gi"}}).worker
    assert (own.cpu, own.memory) == ("32", "8Gi")


def test_a_worker_without_gpu_asks_for_none() -> None:
    assert planned(resources={"pool": "cpu", "gpusPerWorker": 0}).worker.resources == {}


def test_a_head_has_neither_gpu_nor_the_pools_nodes() -> None:
    platform = Platform.model_validate(
        {
            "gpuPools": {"a100": {"nodeSelector": {"gpu": "a100"}}},
            "head": {"nodeSelector": {"pool": "cpu"}, "size": {"cpu": "3", "memory": "6Gi"}},
            "checkpointUri": "s3://runs",
        }
    )
    head = planned(platform).head
    assert (head.cpu, head.memory, head.resources, head.node_selector) == ("3", "6Gi", {}, {"pool": "cpu"})
    assert planned(platform, resources={"pool": "a100", "head": {"cpu": "1", "memory": "1Gi"}}).head.shm == "536870912"


@pytest.mark.parametrize(
    ("memory", "shm"),
    [
        pytest.param("16Gi", "8Gi", id="half of it and no more"),
        pytest.param("512Gi", "8Gi", id="as the pool says"),
        pytest.param("4Gi", "2147483648", id="half, where the pool's is too much"),
        pytest.param("3G", "1500000000", id="in decimal units"),
        pytest.param("1500M", "750000000", id="in whole bytes"),
    ],
)
def test_shared_memory_leaves_room_for_the_rest(memory: str, shm: str) -> None:
    assert planned(resources={"pool": "a100", "worker": {"memory": memory}}).worker.shm == shm


def test_the_jobs_variables_come_after_the_platforms() -> None:
    platform = PLATFORM.model_copy(update={"env": [{"name": "A", "value": "platform"}]})
    made = planned(platform, env=[{"name": "B", "value": "b"}], envFrom=[{"secretRef": {"name": "s"}}])
    assert made.env == [{"name": "A", "value": "platform"}, {"name": "B", "value": "b"}]
    assert made.env_from == [{"secretRef": {"name": "s"}}]


# ── invalid jobs ────────────────────────────────────────────────────────────────────────────────────────────────────

INVALID: dict[str, tuple[Object, Platform, list[str]]] = {
    "no such pool": (
        {"resources": {"pool": "h100"}},
        PLATFORM,
        ["spec.resources.pool: there is no pool 'h100'.", "Use one of those that there are: a100, cpu, t4."],
    ),
    "no pool at all": (
        {},
        Platform(checkpoint_uri="s3://runs"),
        ["spec.resources.pool: there is no pool 'a100'.", "the platform team names them in the chart's gpuPools"],
    ),
    "more GPUs than a node has": (
        {"resources": {"pool": "t4", "gpusPerWorker": 2}},
        PLATFORM,
        ["spec.resources.gpusPerWorker: 2 do not fit a node of pool t4, which has 1.", "Use at most 1, and more workers."],
    ),
    "GPUs of a pool that has none": (
        {"resources": {"pool": "cpu", "gpusPerWorker": 1}},
        PLATFORM,
        ["spec.resources.gpusPerWorker: 1 do not fit a node of pool cpu, which has 0."],
    ),
    "a batch that cannot be divided": (
        {"resources": {"pool": "a100", "workers": 3}},
        PLATFORM,
        ["spec.training.globalBatchSize: 64 cannot be divided among 3 ranks", "Make globalBatchSize a multiple of 3 (63 or 66)"],
    ),
    "no place for checkpoints": (
        {},
        BARE,
        ["spec.checkpoint.uri: is needed", "Name a folder in an object store, such as s3://bucket/folder."],
    ),
    "checkpoints in a folder of the pod": (
        {"checkpoint": {"uri": "/mnt/runs"}},
        PLATFORM,
        ["spec.checkpoint.uri: /mnt/runs is a folder of a pod and would go with it.", "Name a folder in an object store"],
    ),
    "another run's checkpoint in a folder of the pod": (
        {"checkpoint": {"uri": "s3://runs", "resumeFrom": {"uri": "/mnt/runs/old"}}},
        PLATFORM,
        ["spec.checkpoint.resumeFrom.uri: /mnt/runs/old is a folder of a pod", "where the other run's checkpoints are"],
    ),
    "checkpoints in a relative folder": ({"checkpoint": {"uri": "runs"}}, PLATFORM, ["spec.checkpoint.uri: runs is a folder"]),
    "checkpoints at a file URI": (
        {"checkpoint": {"uri": "file:///mnt"}}, PLATFORM, ["spec.checkpoint.uri: file:///mnt is a folder of a pod"],
    ),
    "a result in a folder of the pod": (
        {"output": [{"format": "Adapter"}, {"format": "Merged", "uri": "/tmp/out"}]},
        PLATFORM,
        ["spec.output[1].uri: /tmp/out is a folder of a pod", "or leave it out"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_the_message_names_field_problem_and_remedy(name: str) -> None:
    changes, platform, parts = INVALID[name]
    with pytest.raises(InvalidJob) as error:
        planned(platform, **changes)
    for part in parts:
        assert part in error.value.message
    assert error.value.message.endswith((".", "!"))
    assert str(error.value) == error.value.message


STORED: dict[str, tuple[Object, str]] = {
    "a field that there is not": ({"training": {"lr": 1}}, "spec.training.lr: extra inputs are not permitted"),
    "a number out of range": (
        {"training": {"epochs": 0}}, "spec.training.epochs: input should be greater than 0",
    ),
    "two fields that do not fit": (
        {"deepspeed": {"stage": 2, "offload": "OptimizerAndParameters"}},
        "spec.deepspeed: offload: OptimizerAndParameters needs stage 3",
    ),
    "two parts that do not fit": (
        {"method": {"type": "Full"}, "output": [{"format": "Adapter"}]},
        "spec: output[0].format: Adapter needs method.type: LoRA",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STORED)
def test_what_an_older_schema_let_through_is_an_error_of_the_plan(name: str) -> None:
    """A CRD of before, or one that was changed by hand, does not check all."""
    changes, message = STORED[name]
    body = job()
    body["spec"] |= changes
    with pytest.raises(InvalidJob) as error:
        plan(view_job(body), PLATFORM)
    assert error.value.message.startswith(message)
    assert error.value.message.endswith("Correct it in a new job: a spec does not change.")


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("4", "4"), ("0.5", "0.5"), ("500m", "0.5"), ("1k", "1000"), ("1M", "1e6"), ("1G", "1e9"), ("2T", "2e12"),
        ("1P", "1e15"), ("1E", "1e18"), ("1Ki", "1024"), ("1.5Gi", "1610612736"), ("1Ti", "1099511627776"),
    ],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_does(quantity: str, number: str) -> None:
    assert amount(quantity) == Decimal(number)
