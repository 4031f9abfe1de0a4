"""The operator on a real cluster, by its users' commands: installed from the chart, jobs applied by kubectl, pods by KubeRay."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
import yaml
from obstore.store import S3Store

from tests.cluster.helm import CHART, Helm
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import ROOT
from tests.cluster.steps import until
from tests.e2e.platform import NAMESPACE, RELEASE, installed, make_store_secret, upload, values
from tests.real import assets, real_model
from tests.tiny import write_model

_EXAMPLE = ROOT / "examples" / "finetunejob.yaml"


@pytest.fixture(scope="module")
def platform(cluster: Kubectl) -> Iterator[Helm]:
    with installed(cluster) as helm:
        yield helm


@pytest.fixture
def jobs(platform: Helm, kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace where FineTuneJobs find their store's Secret. Its pods are gone when the next test begins: two
    nodes have no room for the jobs of two tests."""
    make_store_secret(kubectl)
    yield kubectl
    kubectl("delete", "ftj", "--all", "--timeout=60s")
    _await_no_pods(kubectl)


def _await_no_pods(kubectl: Kubectl) -> None:
    for _ in until(90):
        if not kubectl.get("pods")["items"]:
            return
    raise AssertionError(kubectl("get", "pods,rayjobs,rayclusters"))


def _job(kubectl: Kubectl, name: str, **spec: Any) -> None:
    """A small job, with other fields as given."""
    body = yaml.safe_load(_EXAMPLE.read_text())
    body["metadata"]["name"] = name
    body["spec"] |= spec
    kubectl("apply", "--filename=-", stdin=json.dumps(body))


def _status(kubectl: Kubectl, name: str) -> dict[str, Any]:
    found: dict[str, Any] = kubectl.get("ftj", name).get("status", {})
    return found


def _condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})


@pytest.mark.timeout(900)
def test_the_example_ends_in_a_tuned_model(jobs: Kubectl, s3: S3Store, tmp_path: Path) -> None:
    """The README's: the real model, applied, watched and waited for."""
    upload(s3, real_model(), "models/smollm2-135m-instruct")
    upload(s3, assets() / "shakespeare", "shakespeare")
    jobs("apply", f"--filename={_EXAMPLE}")
    watch = [*jobs.command, "get", "ftj", "shakespeare", "--watch", "--output=json"]
    phases: list[str] = []
    training: list[dict[str, Any]] = []
    with (tmp_path / "watch.json").open("w+") as seen, subprocess.Popen(watch, stdout=seen) as watching:
        try:
            jobs("wait", "ftj/shakespeare", "--for=condition=Complete", "--timeout=780s", timeout=800)
        finally:
            watching.kill()
        seen.seek(0)
        for status in (each.get("status", {}) for each in _documents(seen.read())):
            if status.get("phase") and phases[-1:] != [status["phase"]]:
                phases.append(status["phase"])
            if status.get("phase") == "Training" and status["run"].get("step"):
                training.append(status["run"])
    status = _status(jobs, "shakespeare")
    order = ["Pending", "Provisioning", "Preparing", "Evaluating", "Training", "Evaluating", "Exporting", "Succeeded"]
    unseen = iter(order)  # a phase may be too short for the watch
    assert all(phase in unseen for phase in phases), phases
    assert phases[-1] == "Succeeded"
    assert {"Preparing", "Training", "Exporting"} <= set(phases)
    assert training, "no step was seen"
    assert all(run["progress"] == f"{run['step']}/12" and run["loss"] > 0 for run in training)
    assert any(run.get("eta") for run in training)
    run = status["run"]
    assert run["stage"] == "Succeeded"
    assert run["step"] == run["totalSteps"] == 12
    assert run["evaluation"]["tuned"] < run["evaluation"]["baseline"]
    assert run["checkpoint"]["step"] == 12
    _check_adapter(s3, run["artifacts"], tmp_path / "adapter")
    reasons = {
        each["reason"] for each in jobs.get("events")["items"] if each["involvedObject"]["kind"] == "FineTuneJob"
    }
    assert {"Preparing", "Training", "Exporting", "Succeeded"} <= reasons


def _documents(text: str) -> list[dict[str, Any]]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:  # kubectl was killed while it wrote
            break
        found.append(value)
        while at < len(text) and text[at].isspace():
            at += 1
    return found


def _check_adapter(store: S3Store, artifacts: list[dict[str, Any]], folder: Path) -> None:
    """It loads onto the base model by PEFT, and changes it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    artifact = next(each for each in artifacts if each["format"] == "Adapter")
    prefix = artifact["uri"].removeprefix("s3://finetune/")
    folder.mkdir()
    for entry in obstore.list(store, prefix).collect():
        name = entry["path"].rpartition("/")[2]
        (folder / name).write_bytes(bytes(obstore.get(store, entry["path"]).bytes()))
    base = AutoModelForCausalLM.from_pretrained(real_model(), dtype=torch.float32)
    tokens = torch.tensor([[1, 2, 3, 4]])
    before = base(tokens).logits
    after = PeftModel.from_pretrained(base, folder)(tokens).logits
    assert not torch.allclose(before, after)


def test_pods_are_where_they_belong_and_may_do_little(jobs: Kubectl) -> None:
    """Head on a CPU node and with the only token; workers in the pool; all as the restricted profile wants ours to be."""
    _job(jobs, "placed")
    pods: list[dict[str, Any]] = []
    for _ in until(60):
        pods = jobs.get("pods")["items"]
        if len(pods) == 3 and all(pod["spec"].get("nodeName") for pod in pods):
            break
    nodes = {
        node["metadata"]["name"]: node["metadata"]["labels"].get("finetune.dev/pool")
        for node in jobs.get("nodes")["items"]
    }
    placed = sorted((pod["metadata"]["labels"]["ray.io/node-type"], nodes[pod["spec"]["nodeName"]]) for pod in pods)
    assert placed == [("head", "cpu"), ("worker", "gpu"), ("worker", "gpu")]
    for pod in pods:
        spec, labels = pod["spec"], pod["metadata"]["labels"]
        assert labels["finetune.dev/job"] == "placed"
        assert spec["serviceAccountName"] == "finetune-driver"
        token = any("serviceAccountToken" in source for volume in spec["volumes"] for source in _sources(volume))
        assert token == (labels["ray.io/node-type"] == "head")
        ours = next(
            each for each in spec["containers"] if each["name"].startswith("ray-") and "submitter" not in each["name"]
        )
        assert ours["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert spec["securityContext"]["runAsNonRoot"]
    jobs("delete", "ftj", "placed")
    for _ in until(60):
        if not jobs.get("pods")["items"] and not jobs.get("rayjobs,raycluster,configmaps")["items"][1:]:
            return
    raise AssertionError(jobs("get", "pods,rayjobs,rayclusters,configmaps"))


def _sources(volume: dict[str, Any]) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = volume.get("projected", {}).get("sources", [])
    return sources


_WAITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unschedulable": (
        {"resources": {"pool": "gpu", "workers": 4, "gpusPerWorker": 4, "worker": {"cpu": "100m", "memory": "1Gi"}},
         "training": {"globalBatchSize": 32, "microBatchSize": 2}},
        "Unschedulable", "Insufficient nvidia.com/gpu",
    ),
    "no-secret": ({"envFrom": [{"secretRef": {"name": "absent"}}]}, "SecretMissing", "no Secret absent"),
    "no-key": (
        {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "store", "key": "absent"}}}]},
        "SecretMissing", "has no key absent",
    ),
    "no-image": ({"image": "registry.invalid/none:1"}, "ImagePull", "registry.invalid/none:1"),
    "no-account": ({"serviceAccountName": "absent"}, "ServiceAccountMissing", "no ServiceAccount absent"),
}  # fmt: skip


@pytest.mark.parametrize("name", _WAITS)
def test_a_job_that_waits_says_why_within_15_seconds(jobs: Kubectl, name: str) -> None:
    spec, reason, words = _WAITS[name]
    _job(jobs, name, **spec)
    began = time.monotonic()
    said: dict[str, Any] = {}
    for _ in until(15):
        said = _condition(_status(jobs, name), "Training")
        if said.get("reason") == reason:
            break
    assert said.get("reason") == reason, said
    assert words in said["message"]
    print(f"{name}: {time.monotonic() - began:.1f} s: {said['message']}")


def test_a_namespace_that_is_full_says_so(jobs: Kubectl) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "1"}},
    }
    jobs.apply(json.dumps(quota))
    _job(jobs, "quota")
    said: dict[str, Any] = {}
    for _ in until(15):
        said = _condition(_status(jobs, "quota"), "Training")
        if said.get("reason") == "QuotaExceeded":
            break
    assert "exceeded quota: small" in said.get("message", ""), said


_INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "offload-without-stage": ({"deepspeed": {"stage": 1, "offload": "OptimizerAndParameters"}}, "deepspeed.stage: 3"),
    "adapter-of-full": ({"method": {"type": "Full"}}, "needs method.type: LoRA"),
    "typo": ({"traning": {}}, 'unknown field "spec.traning"'),
    "wrong-type": ({"training": {"maxSteps": "many"}}, "spec.training.maxSteps"),
    "out-of-range": ({"training": {"learningRate": -1}}, "spec.training.learningRate"),
    "not-a-choice": ({"method": {"type": "QLoRA"}}, "spec.method.type"),
    "no-data": ({"dataset": {"train": []}}, "spec.dataset.train"),
    "no-pool": ({"resources": {"pool": "h100"}}, "there is no pool 'h100'"),
    "too-many-gpus": ({"resources": {"pool": "gpu", "gpusPerWorker": 8}}, "Use at most 4"),
    "batch": ({"training": {"globalBatchSize": 3}}, "multiple of 2"),
    "local-store": ({"checkpoint": {"uri": "/runs"}}, "is a folder of a pod"),
    "a-name-that-is-much-too-long-for-the-pods-of-ray": ({}, "at most 42 characters"),
}


@pytest.mark.parametrize("name", _INVALID)
def test_an_invalid_job_is_refused_or_fails_at_once(jobs: Kubectl, name: str) -> None:
    spec, words = _INVALID[name]
    if refusal := _refusal(jobs, name, spec):
        assert words in refusal
        return
    status: dict[str, Any] = {}
    for _ in until(10):
        status = _status(jobs, name)
        if status.get("phase") == "Failed":
            break
    assert status.get("phase") == "Failed", status
    assert words in _condition(status, "Failed")["message"]
    assert not jobs.get("rayjobs")["items"]


def _refusal(kubectl: Kubectl, name: str, spec: dict[str, Any]) -> str:
    """What kubectl said, or nothing if the job was taken."""
    try:
        _job(kubectl, name, **spec)
    except KubectlFailed as refused:
        return str(refused)
    return ""


@pytest.fixture(scope="module")
def tiny(cluster: Kubectl, module_s3: S3Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model that trains in seconds, in the bucket, and the fields of a job that use it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model")
    text = "".join(f"{number}: to be, or not to be, that is the question\n" for number in range(400))
    (folder / "text").mkdir()
    (folder / "text" / "rows.txt").write_text(text)
    upload(module_s3, folder, "tiny")
    return {
        "model": {"uri": "s3://finetune/tiny/model"},
        "dataset": {"train": [{"uri": "s3://finetune/tiny/text/*.txt"}], "maxLength": 64},
        "evaluation": {"everySteps": 0, "baseline": False},
    }


@pytest.mark.timeout(600)
def test_a_suspended_job_frees_its_pods_and_a_resumed_one_goes_on_from_a_checkpoint(
    jobs: Kubectl, tiny: dict[str, Any]
) -> None:
    training = {"maxSteps": 400, "globalBatchSize": 4, "microBatchSize": 2}
    _job(
        jobs, "paused", **tiny, training=training, checkpoint={"uri": "s3://finetune/runs", "everySteps": 5, "keep": 2}
    )
    jobs.watch("ftj", "paused", lambda job: _saved(job) >= 5, seconds=240)
    jobs("patch", "ftj", "paused", "--type=merge", '--patch={"spec":{"suspend":true}}')
    _await_no_pods(jobs)
    assert _status(jobs, "paused")["phase"] == "Suspended"
    jobs("patch", "ftj", "paused", "--type=merge", '--patch={"spec":{"suspend":false}}')
    resumed = jobs.watch(
        "ftj", "paused", lambda job: job["status"].get("run", {}).get("resumedFromStep", 0) >= 5, seconds=240
    )
    assert resumed["status"]["attempt"] == 2
    assert "failed" not in resumed["status"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_taken_away_saves_its_step_first_and_is_replaced(jobs: Kubectl, tiny: dict[str, Any]) -> None:
    """Without periodic checkpoints: what the ranks resume from was saved because of the notice. The attempt goes on."""
    training = {"maxSteps": 400, "globalBatchSize": 4, "microBatchSize": 2}
    _job(jobs, "taken", **tiny, training=training, checkpoint={"uri": "s3://finetune/runs", "everySteps": 0})
    jobs.watch("ftj", "taken", lambda job: job.get("status", {}).get("run", {}).get("step", 0) >= 3, seconds=240)
    worker = jobs.get("pods", "--selector=ray.io/node-type=worker")["items"][0]["metadata"]["name"]
    jobs("delete", "pod", worker, "--wait=false")
    resumed = jobs.watch(
        "ftj", "taken", lambda job: job["status"].get("run", {}).get("resumedFromStep", 0) >= 3, seconds=300
    )
    assert (resumed["status"]["attempt"], resumed["status"]["run"]["restarts"]) == (1, 1)
    assert "failed" not in resumed["status"]
    jobs("delete", "ftj", "taken", "--timeout=120s")


def _saved(job: dict[str, Any]) -> int:
    return int(job.get("status", {}).get("run", {}).get("checkpoint", {}).get("step", 0))


@pytest.mark.timeout(600)
def test_what_the_driver_says_is_why_its_job_failed(jobs: Kubectl, tiny: dict[str, Any]) -> None:
    """Class Data: no other attempt. KubeRay never notices a driver that ends before its cluster is ready."""
    dataset = {"train": [{"uri": "s3://finetune/nothing/here/*.jsonl"}], "maxLength": 64}
    _job(jobs, "no-rows", **tiny | {"dataset": dataset})
    ended = jobs.watch("ftj", "no-rows", lambda job: job.get("status", {}).get("phase") == "Failed", seconds=240)
    failure = ended["status"]["failure"]
    assert failure["class"] in ("User", "Data")
    assert "s3://finetune/nothing/here/*.jsonl" in failure["message"]
    assert ended["status"]["attempt"] == 1
    _await_no_pods(jobs)


@pytest.mark.timeout(600)
def test_a_namespace_with_running_jobs_can_be_deleted(jobs: Kubectl, tiny: dict[str, Any]) -> None:
    for name in ("one", "other"):
        _job(jobs, name, **tiny)
    jobs.watch("ftj", "one", lambda job: job.get("status", {}).get("attempt") == 1, seconds=30)
    jobs("delete", "namespace", jobs.namespace, "--timeout=120s")


def test_an_operator_that_is_upgraded_tested_and_uninstalled_leaves_nothing_stuck_or_lost(
    cluster: Kubectl, jobs: Kubectl, platform: Helm, tiny: dict[str, Any]
) -> None:
    """The last test: the operator is gone then. The CRD and the jobs stay, and can be deleted without it."""
    _job(jobs, "orphan", **tiny)
    jobs.watch("ftj", "orphan", lambda job: job.get("status", {}).get("attempt") == 1, seconds=30)
    before = jobs.get("rayjob", "orphan-1")["metadata"]["uid"]
    options = ["--wait", "--timeout=120s"]
    platform("upgrade", RELEASE, str(CHART), *options, values=values(workers=4, leaderElection={"enabled": True}))
    assert "Succeeded" in platform("test", RELEASE, "--timeout=120s")
    platform("uninstall", RELEASE, *options)
    assert not cluster.within(NAMESPACE).get("deployments")["items"]
    assert jobs.get("ftj", "orphan")["status"]["attempt"] == 1
    assert jobs.get("rayjob", "orphan-1")["metadata"]["uid"] == before
    jobs("delete", "ftj", "orphan", "--timeout=60s")
    _await_no_pods(jobs)
