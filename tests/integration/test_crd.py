"""The CustomResourceDefinition on a real API server: what it fills in, what it refuses and in which words, and what people see.

Nobody acts on the jobs here: there is no operator.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.job import FineTuneJobSpec
from finetune_operator.decide.usage import KINDS, added
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.cluster.layout import Layout
from tests.integration.control_plane_with_crds import control_plane_with_crds, new_namespace
from tests.unit.operator.manifests import GOLDEN

Object = dict[str, Any]

SMALLEST: Object = {
    "model": {"uri": "hf://owner/model"},
    "dataset": {"train": [{"uri": "s3://data/*.jsonl"}]},
    "resources": {"pool": "a100"},
}
EVERYTHING: Object = {
    "model": {"uri": "hf://owner/model", "revision": "main", "trustRemoteCode": True, "attention": "SDPA"},
    "dataset": {
        "train": [{"uri": "s3://data/*.txt", "format": "Text", "sampleBy": "Paragraph"}],
        "validation": {"uri": "s3://data/held-out.jsonl"},
        "kind": "Messages",
        "columns": {"messages": "turns"},
        "chatTemplate": "{{ messages }}",
        "maxLength": 4096,
        "packing": False,
        "lossOn": "All",
    },
    "method": {"type": "LoRA", "lora": {"rank": 8, "targetModules": ["q_proj", "v_proj"]}},
    "training": {
        "maxSteps": 10,
        "learningRate": 1e-4,
        "extra": {"max_grad_norm": 0.5, "optim": "adamw_torch", "fsdp": []},
    },
    "deepspeed": {"stage": 2, "offload": "Optimizer", "config": {"zero_optimization": {"overlap_comm": True}}},
    "checkpoint": {"uri": "s3://mine", "everySteps": 5, "keep": 1},
    "evaluation": {"prompts": ["To be, or"]},
    "output": [{"format": "Adapter"}, {"format": "Merged", "uri": "s3://models/x"}],
    "resources": {
        "pool": "a100",
        "workers": 2,
        "gpusPerWorker": 8,
        "worker": {"cpu": "32", "memory": "512Gi"},
        "head": {"cpu": "500m", "memory": "2Gi"},
    },
    "image": "registry/training:2",
    "env": [
        {"name": "A", "value": ""},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
    ],
    "envFrom": [{"secretRef": {"name": "s"}}, {"prefix": "X_", "configMapRef": {"name": "c", "optional": True}}],
    "serviceAccountName": "trainer",
    "backoffLimit": 0,
    "activeDeadlineSeconds": 3600,
    "pendingDeadlineSeconds": 600,
    "ttlSecondsAfterFinished": 0,
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    with control_plane_with_crds(tmp_path_factory.mktemp("crd") / "cluster") as layout:
        yield layout


@pytest.fixture(scope="module")
def kubectl(layout: Layout) -> Kubectl:
    return new_namespace(layout)


def job(spec: Object, name: str = "") -> Object:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name or f"j-{uuid.uuid4().hex[:8]}"},
        "spec": spec,
    }


def changed(spec: Object, path: str, value: Any) -> Object:
    """`spec` with the field at `path` (model.uri, output.0.format) set to `value`."""
    result = copy.deepcopy(spec)
    *parents, last = path.split(".")
    place: Any = result
    for each in parents:
        place = place[int(each)] if isinstance(place, list) else place.setdefault(each, {})
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return result


def create(kubectl: Kubectl, body: Object, *options: str) -> Object:
    made: Object = json.loads(kubectl("create", "--filename=-", "--output=json", *options, stdin=json.dumps(body)))
    return made


def refusal(kubectl: Kubectl, body: Object) -> str:
    with pytest.raises(KubectlFailed) as error:
        create(kubectl, body)
    return str(error.value)


# ── what is accepted ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spec", [SMALLEST, EVERYTHING], ids=["the smallest job", "everything set"])
def test_defaults_are_those_of_the_models(kubectl: Kubectl, spec: Object) -> None:
    stored = create(kubectl, job(spec))["spec"]
    assert stored == FineTuneJobSpec.model_validate(spec).model_dump(mode="json", by_alias=True, exclude_none=True)


def test_null_is_a_value_where_the_names_are_those_of_others(kubectl: Kubectl) -> None:
    extra = {"label_names": None, "accelerator_config": {"split_batches": None}}
    stored = create(kubectl, job(changed(SMALLEST, "training.extra", extra)))
    assert stored["spec"]["training"]["extra"] == extra


def test_the_longest_name_is_accepted(kubectl: Kubectl) -> None:
    create(kubectl, job(SMALLEST, "a" + "b" * 41))


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_kubernetes_takes_what_the_operator_renders(layout: Layout, path: Path) -> None:
    """RayJobs with KubeRay's schema, and fields that it does not know being an error."""
    kubectl = new_namespace(layout)
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        manifest["metadata"].pop("namespace")
        create(kubectl, manifest, "--validate=strict")


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED: dict[str, tuple[str, Any, list[str]]] = {
    "no model": ("model", {}, ["spec.model.uri: Required value"]),
    "an empty model": ("model.uri", "", ["spec.model.uri", "at least 1 chars long"]),
    "no data": ("dataset.train", [], ["spec.dataset.train", "should have at least 1 items"]),
    "too many sources": ("dataset.train", [{"uri": "x"}] * 17, ["spec.dataset.train", "must have at most 16 items"]),
    "no such format": ("dataset.train.0.format", "XML", ["spec.dataset.train[0].format", '"Auto", "JSONL", "CSV"']),
    "more than half held out": ("dataset.validation.fraction", 0.6, ["validation.fraction", "less than or equal to 0.5"]),
    "samples too short": ("dataset.maxLength", 8, ["spec.dataset.maxLength", "greater than or equal to 16"]),
    "no such method": ("method.type", "QLoRA", ["spec.method.type", 'supported values: "Full", "LoRA"']),
    "no rank": ("method.lora.rank", 0, ["spec.method.lora.rank", "greater than or equal to 1"]),
    "no scale": ("method.lora.alpha", 0, ["spec.method.lora.alpha", "should be greater than 0"]),
    "everything dropped": ("method.lora.dropout", 1, ["spec.method.lora.dropout", "should be less than 1"]),
    "no epochs": ("training.epochs", 0, ["spec.training.epochs", "should be greater than 0"]),
    "no batch": ("training.globalBatchSize", 0, ["spec.training.globalBatchSize", "greater than or equal to 1"]),
    "half a batch": ("training.globalBatchSize", 1.5, ["spec.training.globalBatchSize", "integer"]),
    "a word for a number": ("training.learningRate", "fast", ["spec.training.learningRate", "number"]),
    "no learning": ("training.learningRate", 0, ["spec.training.learningRate", "should be greater than 0"]),
    "a seed below zero": ("training.seed", -1, ["spec.training.seed", "greater than or equal to 0"]),
    "no such stage": ("deepspeed.stage", 4, ["spec.deepspeed.stage", "less than or equal to 3"]),
    "no checkpoint kept": ("checkpoint.keep", 0, ["spec.checkpoint.keep", "greater than or equal to 1"]),
    "too many prompts": ("evaluation.prompts", ["x"] * 17, ["spec.evaluation.prompts", "must have at most 16 items"]),
    "an output without a format": ("output", [{"uri": "s3://x"}], ["spec.output[0].format: Required value"]),
    "no pool": ("resources", {"workers": 1}, ["spec.resources.pool: Required value"]),
    "no workers": ("resources.workers", 0, ["spec.resources.workers", "greater than or equal to 1"]),
    "GPUs below zero": ("resources.gpusPerWorker", -1, ["spec.resources.gpusPerWorker", "greater than or equal to 0"]),
    "no quantity": ("resources.worker.memory", "lots", ["spec.resources.worker.memory", "should match"]),
    "a variable without a name": ("env", [{"name": "", "value": "x"}], ["spec.env[0].name", "at least 1 chars long"]),
    "attempts below zero": ("backoffLimit", -1, ["spec.backoffLimit", "greater than or equal to 0"]),
    "no time at all": ("activeDeadlineSeconds", 0, ["spec.activeDeadlineSeconds", "greater than or equal to 1"]),
    "a time before the end": ("ttlSecondsAfterFinished", -1, ["spec.ttlSecondsAfterFinished", "greater than or equal to 0"]),
    "parameters offloaded without stage 3": (
        "deepspeed", {"stage": 2, "offload": "OptimizerAndParameters"},
        ["deepspeed.offload: OptimizerAndParameters needs deepspeed.stage: 3; set it, or offload: Optimizer"],
    ),
    "the optimizer offloaded without a stage": (
        "deepspeed", {"stage": 0, "offload": "Optimizer"},
        ["deepspeed.offload: Optimizer needs a deepspeed.stage from 1 to 3; set deepspeed.stage: 2"],
    ),
    "a field with a wrong name": ("training.lr", 1, ['unknown field "spec.training.lr"']),
    "a part with a wrong name": ("trainning", {}, ['unknown field "spec.trainning"']),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_api_server_refuses_a_spec_with(kubectl: Kubectl, name: str) -> None:
    path, value, parts = REFUSED[name]
    said = refusal(kubectl, job(changed(SMALLEST, path, value)))
    for part in parts:
        assert part in said


def test_the_api_server_refuses_an_adapter_of_a_full_run(kubectl: Kubectl) -> None:
    said = refusal(kubectl, job(SMALLEST | {"method": {"type": "Full"}, "output": [{"format": "Adapter"}]}))
    assert "output format Adapter needs method.type: LoRA; a Full run has no adapter, use Merged" in said
    create(kubectl, job(SMALLEST | {"method": {"type": "Full"}, "output": [{"format": "Merged"}]}))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a" * 43, id="too long"),
        pytest.param("1st", id="begins with a digit"),
        pytest.param("a.b", id="a dot"),
    ],
)
def test_the_api_server_refuses_names_that_pods_cannot_have(kubectl: Kubectl, name: str) -> None:
    said = refusal(kubectl, job(SMALLEST, name))
    assert "metadata.name must begin with a letter" in said
    assert "at most 42 characters" in said


# ── what may change ─────────────────────────────────────────────────────────────────────────────────────────────────

CHANGES: dict[str, Any] = {
    "model.uri": "hf://owner/other",
    "dataset.train.0.uri": "s3://other",
    "method.lora.rank": 4,
    "method.lora.targetModules": ["q_proj", "k_proj"],
    "training.extra": {"optim": "sgd"},
    "training.extra.max_grad_norm": 1.0,
    "deepspeed.config": {"other": {"overlap_comm": True}},
    "deepspeed.config.zero_optimization": {"other": True},
    "checkpoint.uri": "s3://other",
    "evaluation.baseline": False,
    "output": [],
    "resources.workers": 4,
    "image": "other",
    "env.0.value": "x",
    "env": [],
    "env.1.valueFrom": {"configMapKeyRef": {"name": "s", "key": "k", "optional": True}},
    "envFrom": [],
    "serviceAccountName": "other",
}


def replace(kubectl: Kubectl, body: Object) -> Object:
    body = body | {"metadata": {"name": body["metadata"]["name"]}}
    made: Object = json.loads(kubectl("replace", "--filename=-", "--output=json", stdin=json.dumps(body)))
    return made


@pytest.fixture(scope="module")
def everything(kubectl: Kubectl) -> Object:
    return create(kubectl, job(EVERYTHING, "everything"))


@pytest.mark.parametrize("path", CHANGES)
def test_what_a_job_trains_cannot_be_changed(kubectl: Kubectl, everything: Object, path: str) -> None:
    body = everything | {"spec": changed(everything["spec"], path, CHANGES[path])}
    with pytest.raises(KubectlFailed) as error:
        replace(kubectl, body)
    field = path.split(".")[0]
    assert f"{field} cannot be changed: a new run is a new FineTuneJob, under another name" in str(error.value)


@pytest.mark.parametrize("field", ["checkpoint", "training", "env", "serviceAccountName"])
def test_a_field_of_what_a_job_trains_cannot_be_left_out_later(
    kubectl: Kubectl, everything: Object, field: str
) -> None:
    """Its default would come in its place."""
    spec = {key: value for key, value in everything["spec"].items() if key != field}
    with pytest.raises(KubectlFailed, match=f"{field} cannot be changed"):
        replace(kubectl, everything | {"spec": spec})


def test_how_a_job_lives_can_be_changed(kubectl: Kubectl) -> None:
    body = create(kubectl, job(EVERYTHING))
    for field, value in (
        ("suspend", True),
        ("backoffLimit", 7),
        ("activeDeadlineSeconds", 60),
        ("pendingDeadlineSeconds", 60),
        ("ttlSecondsAfterFinished", 5),
    ):
        before = body["metadata"]["generation"]
        body = replace(kubectl, body | {"spec": body["spec"] | {field: value}})
        assert body["spec"][field] == value
        assert body["metadata"]["generation"] == before + 1


@pytest.mark.parametrize("spec", [SMALLEST, EVERYTHING], ids=["the smallest job", "everything set"])
@pytest.mark.parametrize("options", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_applying_the_same_twice_changes_nothing(kubectl: Kubectl, spec: Object, options: tuple[str, ...]) -> None:
    body = job(spec)
    versions = []
    for _ in range(2):
        kubectl("apply", "--filename=-", *options, stdin=json.dumps(body))
        versions.append(kubectl.get("ftj", body["metadata"]["name"])["metadata"]["resourceVersion"])
    assert versions[0] == versions[1]


# ── what people see ─────────────────────────────────────────────────────────────────────────────────────────────────

STATUS: Object = {
    "observedGeneration": 1,
    "phase": "Training",
    "attempt": 2,
    "conditions": [
        {"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2030-01-01T00:00:00Z"}
        for kind, reason in (("Accepted", "Valid"), ("Training", "Unschedulable"))
    ],
    "failure": {"class": "Infrastructure", "reason": "PodDisrupted", "message": "", "log": "last\nwords"},
    "current": {"startTime": "2030-01-01T00:00:00Z", "pauseSeconds": 11, "logs": "s3://x/attempts/2"},
    "attempts": [
        {
            "attempt": 1,
            "class": "",
            "reason": "Suspended",
            "message": "",
            "startTime": "2030-01-01T00:00:00Z",
            "endTime": "2030-01-01T00:00:00Z",
            "checkpointStep": 100,
            "lostSteps": 0,
        },
    ],
    "usage": added(None, dict.fromkeys(KINDS, 10), total=80, gpu_seconds=640).to_json(),
    "run": {
        "attempt": 2,
        "stage": "Training",
        "progress": "120/500",
        "loss": 1.25,
        "eta": "12m",
        "tokensPerSecond": 1000,
        "checkpoint": {"uri": "s3://x", "step": 100, "time": "2030-01-01T00:00:00Z"},
        "restarts": 1,
        "memory": {
            "rung": 1,
            "microBatchSize": 2,
            "gradientCheckpointing": True,
            "offload": "None",
            "stage": 3,
            "peakBytes": 2**40,
        },
        "seconds": {"preparing": 1.5, "training": 60, "sinceCheckpoint": 2},
        "updatedAt": "2030-01-01T00:00:00Z",
    },
}


def test_the_status_is_a_subresource_and_the_columns_show_it(kubectl: Kubectl) -> None:
    made = create(kubectl, job(SMALLEST, "shown") | {"status": STATUS})
    assert "status" not in made
    patch = json.dumps({"status": STATUS, "spec": {"suspend": True}})
    kubectl("patch", "ftj", "shown", "--subresource=status", "--type=merge", f"--patch={patch}")
    stored = kubectl.get("ftj", "shown")
    assert stored["status"] == STATUS
    assert stored["spec"]["suspend"] is False
    assert stored["metadata"]["generation"] == made["metadata"]["generation"]

    def table(*options: str) -> list[list[str]]:
        return [line.split()[:-1] for line in kubectl("get", "ftj", "shown", *options).splitlines()]

    assert table() == [
        ["NAME", "PHASE", "STEP", "LOSS", "ETA", "ATTEMPT"],
        ["shown", "Training", "120/500", "1.25", "12m", "2"],
    ]
    wide = kubectl("get", "ftj", "shown", "--output=wide").splitlines()
    assert wide[0].split()[-4:] == ["TOK/S", "CHECKPOINT", "GOODPUT", "REASON"]
    assert wide[1].split()[-4:] == ["1000", "100", "0.125", "Unschedulable"]


def test_a_status_that_is_none_is_refused(kubectl: Kubectl) -> None:
    made = create(kubectl, job(SMALLEST))["metadata"]["name"]
    patch = json.dumps({"status": {"run": {"attempt": 1, "stage": "Dreaming", "updatedAt": "2030-01-01T00:00:00Z"}}})
    with pytest.raises(KubectlFailed, match=r'status\.run\.stage: Unsupported value: "Dreaming"'):
        kubectl("patch", "ftj", made, "--subresource=status", "--type=merge", f"--patch={patch}")


def test_kubectl_get_all_lists_jobs(kubectl: Kubectl) -> None:
    name = create(kubectl, job(SMALLEST))["metadata"]["name"]
    assert f"finetunejob.finetune.dev/{name}" in kubectl("get", "all")


def explained(kubectl: Kubectl, path: str) -> str:
    return " ".join(kubectl("explain", path).split())


def test_kubectl_explains_the_fields_in_our_words(kubectl: Kubectl) -> None:
    assert "Samples in one optimizer step: the same on any number of GPUs." in explained(
        kubectl, "ftj.spec.training.globalBatchSize"
    )
    assert "The pool of GPU nodes" in explained(kubectl, "ftj.spec.resources.pool")
    assert "What came out." in explained(kubectl, "ftj.status.run.artifacts")
