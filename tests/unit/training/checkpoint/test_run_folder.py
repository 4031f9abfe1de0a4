"""What a run remembers from attempt to attempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_training.checkpoint.run_folder import Resolution, asked, keep_resolution, read_resolution, remember
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import Job
from finetune_training.store.storage import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def job(**changes: Any) -> Job:
    spec = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d/*.jsonl"}]}, **changes}
    return Job.model_validate({"name": "run", "spec": spec})


def reason(raised: pytest.ExceptionInfo[FinetuneError]) -> str:
    return raised.value.failure.reason


@pytest.mark.parametrize(
    "changes",
    [{}, {"resources": {"workers": 4}}, {"checkpoint": {"keep": 9}}, {"training": {"microBatchSize": 2}}],
)
def test_a_run_goes_on_when_only_the_way_changes(store: Store, changes: dict[str, Any]) -> None:
    remember(store, job(), "first")
    remember(store, job(**changes), "second")
    assert store.get("job.yaml") == b"first"


def test_a_run_does_not_go_on_as_another(store: Store) -> None:
    remember(store, job(), "first")
    with pytest.raises(FinetuneError) as raised:
        remember(store, job(training={"learningRate": 1e-3, "seed": 1}), "second")
    assert reason(raised) == "JobChanged"
    assert "spec.training.learningRate, spec.training.seed" in raised.value.failure.message


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, {"uri": "runs/other"}), ({"uri": "runs/other"}, {"uri": "runs/third"}), ({"uri": "x"}, {})],
)
def test_where_a_run_begins_does_not_change(store: Store, first: dict[str, str], second: dict[str, str]) -> None:
    remember(store, job(checkpoint={"resumeFrom": first}), "first")
    remember(store, job(checkpoint={"resumeFrom": first, "keep": 9}), "the same")
    with pytest.raises(FinetuneError) as raised:
        remember(store, job(checkpoint={"resumeFrom": second}), "second")
    assert reason(raised) == "JobChanged"
    assert "spec.checkpoint.resumeFrom.uri" in raised.value.failure.message


def test_a_run_that_is_older_than_resume_from_goes_on(store: Store) -> None:
    remember(store, job(), "first")
    written = json.loads(store.get("spec.json") or b"")
    del written["checkpoint"]
    store.put("spec.json", json.dumps(written).encode())
    remember(store, job(), "second")
    with pytest.raises(FinetuneError) as raised:
        remember(store, job(checkpoint={"resumeFrom": {"uri": "runs/other"}}), "third")
    assert "spec.checkpoint.resumeFrom.uri" in raised.value.failure.message


def test_what_was_asked_for_can_be_read_again(store: Store) -> None:
    assert asked(store) is None
    remember(store, job(training={"seed": 3}), "yaml")
    found = asked(store)
    assert found is not None
    assert found.training.seed == 3


def test_a_process_that_died_early_leaves_a_run_that_still_knows_its_spec(store: Store) -> None:
    remember(store, job(), "first")
    store.delete(["job.yaml"])  # it is written second
    with pytest.raises(FinetuneError) as raised:
        remember(store, job(model={"uri": "other"}), "second")
    assert reason(raised) == "JobChanged"


def test_what_the_first_attempt_found_stays(store: Store) -> None:
    assert read_resolution(store) is None
    keep_resolution(store, Resolution("commit-1", "data-1"))
    keep_resolution(store, Resolution("commit-2", "data-2"))
    assert read_resolution(store) == Resolution("commit-1", "data-1")
