"""A plan → manifests. golden/ has them whole; that Kubernetes and KubeRay take them is tested in tests/integration/test_crd.py.

Write golden/ anew, to be read as a diff: FINETUNE_GOLDEN=write pytest tests/unit/operator/act/test_rayjob.py
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from finetune_operator import names
from finetune_operator.act.rayjob import render_config_map, render_rayjob
from finetune_operator.decide.plan import amount
from finetune_training.contract.jobfile import parse_job
from tests.unit.operator.manifests import GOLDEN, plans
from tests.unit.operator.worlds import UID, Object

PLANS = plans()
MANIFESTS = {name: render_rayjob(plan, attempt) for name, (plan, attempt) in PLANS.items()}


class Readable(yaml.SafeDumper):
    """What is there twice is written twice, and text of many lines has them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


Readable.add_representer(str, Readable.represent_str)


@pytest.mark.parametrize("name", PLANS)
def test_the_manifests_are_those_that_were_read_and_found_good(name: str) -> None:
    plan, attempt = PLANS[name]
    manifests = [MANIFESTS[name], render_config_map(plan, attempt, "uid-of-the-rayjob")]
    text = yaml.dump_all(manifests, Dumper=Readable, sort_keys=False, allow_unicode=True, width=120)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("FINETUNE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_a_secret_that_is_named_twice_is_there_once() -> None:
    """As with variables."""
    for template in templates("everything"):
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]


def test_there_is_no_golden_file_of_a_plan_that_is_no_more() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == PLANS.keys()


def templates(name: str) -> Iterator[Object]:
    cluster = MANIFESTS[name]["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


# What KubeRay's validation.go asks for, and what pod.go makes of what is there. A golden file shows that nothing has changed;
# these show what must not.


@pytest.mark.parametrize("name", PLANS)
def test_kuberay_tries_nothing_again_and_takes_the_cluster_down(name: str) -> None:
    spec = MANIFESTS[name]["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (0, True)
    assert spec["submissionMode"] == "SidecarMode"
    assert not spec.keys() & {"submitterPodTemplate", "submitterConfig", "clusterSelector", "deletionStrategy"}
    assert not spec["rayClusterSpec"].keys() & {"enableInTreeAutoscaling", "autoscalerOptions"}
    assert all(each["spec"]["restartPolicy"] == "Never" for each in templates(name))


@pytest.mark.parametrize("name", PLANS)
def test_the_gang_has_a_fixed_size(name: str) -> None:
    (group,) = MANIFESTS[name]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == PLANS[name][0].workers


@pytest.mark.parametrize("name", PLANS)
def test_nothing_of_the_user_is_in_the_entrypoint(name: str) -> None:
    """KubeRay pastes it into a line of bash."""
    assert MANIFESTS[name]["spec"]["entrypoint"] == "finetune run /etc/finetune/job.yaml"


@pytest.mark.parametrize("name", PLANS)
def test_names_and_labels_are_as_long_as_they_may_be(name: str) -> None:
    metadata = MANIFESTS[name]["metadata"]
    assert len(metadata["name"]) <= 47
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", metadata["name"])
    assert all(len(value) <= 63 for value in metadata["labels"].values())


@pytest.mark.parametrize("name", PLANS)
def test_a_pod_lives_as_long_as_its_ray_node_waits_for_the_ranks_and_the_head_outlives_an_idle_worker(
    name: str,
) -> None:
    head, *workers = templates(name)
    for template in (head, *workers):
        drain = float(variables(template)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert drain + 5 <= template["spec"]["terminationGracePeriodSeconds"]
    assert float(variables(head)["RAY_GRACEFUL_SHUTDOWN_POLL_INTERVAL_S"]) > 1
    assert not any("RAY_GRACEFUL_SHUTDOWN_POLL_INTERVAL_S" in variables(worker) for worker in workers)


def test_the_head_is_told_how_often_memory_was_short() -> None:
    plan, attempt = PLANS["smallest"]
    spec = render_rayjob(plan, attempt, out_of_memory=2)["spec"]["rayClusterSpec"]
    assert variables(spec["headGroupSpec"]["template"])["FINETUNE_OUT_OF_MEMORY"] == "2"
    assert "FINETUNE_OUT_OF_MEMORY" not in variables(spec["workerGroupSpecs"][0]["template"])


@pytest.mark.parametrize("name", PLANS)
def test_no_variable_comes_twice(name: str) -> None:
    """KubeRay's schema refuses that, where a pod would have taken the last one."""
    for template in templates(name):
        given = [each["name"] for each in template["spec"]["containers"][0]["env"]]
        assert len(set(given)) == len(given)


def variables(template: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in template["spec"]["containers"][0]["env"]}


def test_the_jobs_variables_win_over_the_platforms_and_ours_over_the_jobs() -> None:
    head, worker = (variables(each) for each in templates("everything"))
    assert (worker["HF_ENDPOINT"], worker["NCCL_DEBUG"]) == ("https://mirror", "INFO")
    assert worker["WANDB_API_KEY"] == {"secretKeyRef": {"name": "wandb", "key": "key"}}
    assert (head["FINETUNE_ATTEMPT"], head["FINETUNE_STATUS"]) == ("2", "true")


@pytest.mark.parametrize("name", PLANS)
def test_only_the_head_has_a_token_of_the_api_server_and_no_gpu(name: str) -> None:
    head, *workers = templates(name)
    assert head["spec"]["automountServiceAccountToken"] is True
    assert not any(each["spec"]["automountServiceAccountToken"] for each in workers)
    assert head["spec"]["containers"][0]["resources"]["limits"].keys() == {"memory"}
    cluster = MANIFESTS[name]["spec"]["rayClusterSpec"]
    start = cluster["headGroupSpec"]["rayStartParams"]
    assert (start["num-cpus"], start["num-gpus"]) == ("0", "0")


@pytest.mark.parametrize(
    ("name", "resource", "gpus"),
    [
        ("smallest", "nvidia.com/gpu", 1),
        ("everything", "nvidia.com/gpu", 8),
        ("amd", "amd.com/gpu", 8),
        ("cpu-only", "", 0),
    ],
)
def test_ray_has_the_gpus_that_the_pod_has(name: str, resource: str, gpus: int) -> None:
    (group,) = MANIFESTS[name]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["rayStartParams"]["num-gpus"] == str(gpus)
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert {key: value for key, value in limits.items() if key.endswith("/gpu")} == (
        {resource: str(gpus)} if gpus else {}
    )


@pytest.mark.parametrize("name", PLANS)
def test_cpu_is_asked_for_and_not_limited_and_all_else_is_both(name: str) -> None:
    """Ray takes the number of CPUs from the request where there is no limit."""
    for template in templates(name):
        resources = template["spec"]["containers"][0]["resources"]
        assert resources["requests"] == {"cpu": resources["requests"]["cpu"]} | resources["limits"]
        assert "cpu" not in resources["limits"]


@pytest.mark.parametrize("name", PLANS)
def test_shared_memory_is_ours_so_that_kuberay_mounts_none(name: str) -> None:
    for template in templates(name):
        mounts = {each["mountPath"]: each["name"] for each in template["spec"]["containers"][0]["volumeMounts"]}
        volumes = {each["name"]: each for each in template["spec"]["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        config = render_config_map(*PLANS[name], "rayjob-uid")
        assert volumes[mounts["/etc/finetune"]]["configMap"]["name"] == config["metadata"]["name"]


@pytest.mark.parametrize("name", PLANS)
def test_ray_asks_for_a_token_where_it_can(name: str) -> None:
    cluster = MANIFESTS[name]["spec"]["rayClusterSpec"]
    expected = None if name == "ray-without-tokens" else {"mode": "token"}
    assert cluster.get("authOptions") == expected
    assert cluster["rayVersion"]


@pytest.mark.parametrize("name", PLANS)
def test_children_go_with_their_owner_and_are_found_by_their_labels(name: str) -> None:
    plan, attempt = PLANS[name]
    rayjob, config = MANIFESTS[name], render_config_map(plan, attempt, "uid-of-the-rayjob")
    (owner,) = rayjob["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("FineTuneJob", plan.name, UID)
    (owner,) = config["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("RayJob", rayjob["metadata"]["name"], "uid-of-the-rayjob")
    labels = names.child_labels(plan.name, plan.uid, attempt)
    for each in (rayjob, config, *templates(name)):
        assert each["metadata"]["labels"] == labels


@pytest.mark.parametrize("name", PLANS)
def test_the_driver_reads_what_the_user_wrote(name: str) -> None:
    plan, attempt = PLANS[name]
    text = render_config_map(plan, attempt, "x")["data"]["job.yaml"]
    job = parse_job(text, name="job.yaml")
    assert (job.name, job.namespace, job.uid) == (plan.name, "team", UID)
    assert job.spec.checkpoint.uri == plan.run["checkpoint"]["uri"]
    assert job.spec.dataset.chat_template == plan.run["dataset"]["chatTemplate"]
    assert (job.spec.resources.workers, job.spec.resources.gpus_per_worker) == (plan.workers, plan.gpus_per_worker)


@pytest.mark.parametrize("name", PLANS)
def test_rays_object_store_fits_into_dev_shm(name: str) -> None:
    cluster = MANIFESTS[name]["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        shm = next(each for each in group["template"]["spec"]["volumes"] if each["name"] == "shm")["emptyDir"][
            "sizeLimit"
        ]
        assert 0.7 * float(amount(shm)) < int(group["rayStartParams"]["object-store-memory"]) < float(amount(shm))
