"""The environment and the platform file → settings, or which variable and which field is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator.settings import InvalidSettings, Platform, Settings, read_platform, read_settings

PLATFORM = """
gpuPools:
  a100:
    nodeSelector: {gpu: a100}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    gpusPerNode: 4
checkpointUri: s3://runs
"""


def platform_file(folder: Path, text: str) -> str:
    path = folder / "platform.yaml"
    path.write_text(text)
    return str(path)


def test_an_empty_environment_is_enough() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"FINETUNE_WORKERS": " ", "PATH": "/bin"}) == Settings()


def test_every_variable_is_read(tmp_path: Path) -> None:
    settings = read_settings(
        {
            "FINETUNE_NAMESPACES": "team, other",
            "FINETUNE_DRIVER_ROLE": "Role/driver",
            "FINETUNE_WORKERS": "2",
            "FINETUNE_RESYNC_SECONDS": "60",
            "FINETUNE_HEALTH_PORT": "1",
            "FINETUNE_METRICS_PORT": "2",
            "FINETUNE_LEADER_ELECTION": "true",
            "FINETUNE_LEASE_NAMESPACE": "system",
            "FINETUNE_LEASE_NAME": "lease",
            "FINETUNE_IDENTITY": "pod-1",
            "FINETUNE_LOG_FORMAT": "text",
            "FINETUNE_LOG_LEVEL": "debug",
            "FINETUNE_PLATFORM_FILE": platform_file(tmp_path, PLATFORM),
        }
    )
    assert settings.model_dump(exclude={"platform"}) == {
        "namespaces": ("team", "other"),
        "driver_role": ("Role", "driver"),
        "workers": 2,
        "resync_seconds": 60,
        "health_port": 1,
        "metrics_port": 2,
        "leader_election": True,
        "lease_namespace": "system",
        "lease_name": "lease",
        "identity": "pod-1",
        "log_format": "text",
        "log_level": "debug",
    }
    pool = settings.platform.gpu_pools["a100"]
    assert (pool.gpus_per_node, pool.node_selector, pool.resource_name) == (4, {"gpu": "a100"}, "nvidia.com/gpu")
    assert settings.platform.checkpoint_uri == "s3://runs"


def test_an_empty_name_in_a_list_is_not_every_namespace() -> None:
    assert read_settings({"FINETUNE_NAMESPACES": "team,"}).namespaces == ("team",)
    assert read_settings({"FINETUNE_NAMESPACES": ","}).namespaces == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FINETUNE_WORKERS", "many"), ("FINETUNE_WORKERS", "0"), ("FINETUNE_RESYNC_SECONDS", "-1"),
        ("FINETUNE_HEALTH_PORT", "http"), ("FINETUNE_LEADER_ELECTION", "perhaps"), ("FINETUNE_LOG_FORMAT", "xml"),
        ("FINETUNE_LOG_LEVEL", "loud"), ("FINETUNE_DRIVER_ROLE", "driver"), ("FINETUNE_DRIVER_ROLE", "User/me"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(variable: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^{variable}: "):
        read_settings({variable: value})


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(InvalidSettings) as error:
        read_settings({"FINETUNE_WORKERS": "many", "FINETUNE_LOG_FORMAT": "xml"})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "FINETUNE_WORKERS",
        "FINETUNE_LOG_FORMAT",
    ]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        pytest.param("gpuPools: {A100: {}}", "gpuPools.A100", id="a pool whose name no label can have"),
        pytest.param("gpuPools: {a: {gpusPerNode: -1}}", "gpuPools.a.gpusPerNode", id="fewer than no GPU"),
        pytest.param("gpuPools: {a: {resourceName: gpu}}", "gpuPools.a.resourceName", id="a resource without a group"),
        pytest.param("gpuPools: {a: {worker: {cpu: many, memory: 1Gi}}}", "gpuPools.a.worker.cpu", id="no quantity"),
        pytest.param("gpuPools: {a: {gpus: 8}}", "gpuPools.a.gpus", id="a field that there is not"),
        pytest.param("imagePullPolicy: Sometimes", "imagePullPolicy", id="no such policy"),
        pytest.param("rayVersion: latest", "rayVersion", id="no version"),
        pytest.param("[a, b]", "", id="a list"),
    ],
)
def test_what_is_wrong_in_the_platform_file_is_named(tmp_path: Path, text: str, field: str) -> None:
    path = platform_file(tmp_path, text)
    with pytest.raises(InvalidSettings) as error:
        read_settings({"FINETUNE_PLATFORM_FILE": path})
    assert str(error.value).startswith(f"{path}: {field}")


def test_a_platform_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"none\.yaml: .*No such file"):
        read_platform(tmp_path / "none.yaml")
    with pytest.raises(InvalidSettings, match=r"platform\.yaml: "):
        read_platform(Path(platform_file(tmp_path, "a: [")))


def test_an_empty_platform_file_is_the_default(tmp_path: Path) -> None:
    assert read_platform(Path(platform_file(tmp_path, ""))) == Platform()
