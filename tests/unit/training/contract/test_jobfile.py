"""From YAML to a job, and what a person reads when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_training.cli.validate import plan_text
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.jobfile import Identity, identity_in, json_schema, parse_job, read_job

EXAMPLES = [
    path
    for path in sorted((Path(__file__).parents[4] / "examples").glob("*.yaml"))
    if "kind: FineTuneJob" in path.read_text()
]
HEADER = "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: a}\n"
SPEC: dict[str, Any] = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}}


def text(**changes: Any) -> str:
    return HEADER + yaml.safe_dump({"spec": {**SPEC, **changes}})


def message(job: str) -> str:
    with pytest.raises(FinetuneError) as raised:
        parse_job(job, name="job.yaml")
    assert raised.value.failure.exit_code == 2
    return raised.value.failure.message


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_job_with_a_plan(example: Path) -> None:
    job = read_job(example)
    assert job.name in plan_text(job, ranks=None)


def test_the_classic_case_runs_on_32_gpus() -> None:
    plan = plan_text(read_job(next(path for path in EXAMPLES if "gptj" in path.name)), ranks=None)
    assert "32 GPUs: 8 workers × 4" in plan
    assert "32 ranks × 2 × 1 accumulated" in plan
    assert '"offload_param"' in plan


@pytest.mark.parametrize("written", ["2e-5", "2.0e-5", "'2e-5'", "0.00002", "2E-5"])
def test_a_learning_rate_is_a_number_in_every_dialect(written: str) -> None:
    spec = "spec: {model: {uri: m}, dataset: {train: [{uri: d}]}, training: {learningRate: %s}}\n" % written  # noqa: UP031
    assert parse_job(HEADER + spec, name="job.yaml").spec.training.learning_rate == pytest.approx(2e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"training": {"learningrate": 1}},
            "job.yaml:11: spec.training.learningrate: unknown field; did you mean learningRate?",
        ),
        ({"trianing": {}}, "spec.trianing: unknown field; did you mean training?"),
        (
            {"dataset": {"train": [{"uri": "d", "foramt": "Text"}]}},
            "spec.dataset.train[0].foramt: unknown field; did you mean format?",
        ),
        ({"training": {"epochs": -1}}, "spec.training.epochs: input should be greater than 0 (not -1)"),
        ({"method": {"type": "Lora"}}, "spec.method.type: input should be 'Full' or 'LoRA' (not 'Lora')"),
        ({"dataset": {}}, "spec.dataset.train: is required"),
        ({"deepspeed": {"stage": 2, "offload": "OptimizerAndParameters"}}, "needs stage 3, not 2"),
        ({"method": {"type": "Full"}, "output": [{"format": "Adapter"}]}, "a Full run has no adapter"),
    ],
)
def test_each_mistake_says_where_it_is_and_what_to_do(changes: dict[str, Any], says: str) -> None:
    assert says in message(text(**changes))


def test_all_mistakes_are_told_at_once() -> None:
    told = message(text(training={"epochs": -1, "seed": -1}))
    assert "epochs" in told
    assert "seed" in told


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ("a: [", "job.yaml:"),
        ("[]", "is not a FineTuneJob"),
        ("a: 2024-13-45", "job.yaml"),
        ("a: " + "[" * 5000, "job.yaml"),
        (HEADER.replace("{name: a}", "name") + yaml.safe_dump({"spec": SPEC}), "metadata should be a mapping"),
        (HEADER.replace("name: a", "name: a, namespace: ../..") + yaml.safe_dump({"spec": SPEC}), "metadata.namespace"),
        ("kind: Job", "apiVersion is None"),
        (HEADER.replace("name: a", "name: A_b") + yaml.safe_dump({"spec": SPEC}), "metadata.name: must be lower-case"),
        (HEADER, "spec.model: is required"),
    ],
)
def test_what_is_no_job_is_said_so(job: str, says: str) -> None:
    assert says in message(job)


def test_the_clusters_fields_are_accepted_on_a_laptop() -> None:
    job = parse_job(
        text(suspend=True, image="x", resources={"pool": "a", "workers": 2, "worker": {"cpu": "1"}}), name="job.yaml"
    )
    assert job.spec.resources.workers == 2


def test_the_schema_knows_every_field_and_refuses_others() -> None:
    schema = json_schema()
    assert set(schema["properties"]["spec"]["properties"]) >= {
        "model",
        "dataset",
        "training",
        "deepspeed",
        "checkpoint",
    }
    assert schema["properties"]["spec"]["additionalProperties"] is False
    json.dumps(schema)


@pytest.mark.parametrize(
    ("job", "found"),
    [
        ("metadata: {name: a, namespace: team, uid: u-1}\nspec: {model: 1}", Identity("team", "a", "u-1")),
        ("metadata: {name: a, uid: u-1}", Identity("default", "a", "u-1")),
        ("metadata: {name: a}", None),
        ("metadata: {name: a, uid: ''}", None),
        ("metadata: {name: a, uid: 7}", None),
        ("metadata: a", None),
        ("- metadata", None),
        ("", None),
        ("a: " + "[" * 5000, None),
        ("a: 2020-99-99", None),
    ],
)
def test_the_identity_is_found_in_a_file_that_is_no_job(job: str, found: Identity | None) -> None:
    assert identity_in(job) == found
