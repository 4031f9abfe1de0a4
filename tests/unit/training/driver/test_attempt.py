"""Attempts: claims, what a run remembers, starting anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_training.checkpoint.lineage import check_fence
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.contract.spec import Job
from finetune_training.driver.attempt import Resolved, asked, claim, located, remember, resolve, resolved, start_anew
from finetune_training.store.storage import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def job(**changes: Any) -> Job:
    spec = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d/*.jsonl"}]}, **changes}
    return Job.model_validate({"name": "run", "spec": spec})


def reason(raised: pytest.ExceptionInfo[FinetuneError]) -> str:
    return raised.value.failure.reason


def test_two_processes_never_have_the_same_attempt(store: Store) -> None:
    assert [claim(store).number for _ in range(3)] == [1, 2, 3]


def test_a_given_number_is_claimed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_ATTEMPT", "7")
    assert claim(store).number == 7
    with pytest.raises(FinetuneError) as raised:
        claim(store)
    assert reason(raised) == "AttemptClaimed"


def test_starting_anew_fences_whoever_still_runs_and_keeps_the_data(store: Store) -> None:
    old = claim(store)
    for key in ("data/x/manifest.json", "checkpoints/step-00000001-a1/manifest.json", "result/metrics.json"):
        store.put(key, b"{}")
    remember(store, job(), "yaml")
    new = start_anew(store)
    with pytest.raises(FinetuneError) as raised:
        check_fence(store, old.turn)
    assert raised.value.failure.cls is FailureClass.FENCED
    check_fence(store, new.turn)
    assert new.inherited == []
    kept = [f"attempts/{new.number}/claim", f"attempts/{new.number}/inherits.json", "data/x/manifest.json"]
    assert [entry.key for entry in store.entries()] == kept


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


@pytest.mark.parametrize(("uri", "there"), [("old", "{here}/old"), ("s3://b/runs/old", "s3://b/runs/old"), ("", "")])
def test_another_runs_folder_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, there: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = located(job(checkpoint={"resumeFrom": {"uri": uri}, "keep": 3})).spec
    assert spec.checkpoint.resume_from.uri == there.format(here=tmp_path)
    assert spec.checkpoint.keep == 3


def test_a_process_that_died_early_leaves_a_run_that_still_knows_its_spec(store: Store) -> None:
    remember(store, job(), "first")
    store.delete(["job.yaml"])  # it is written second
    with pytest.raises(FinetuneError) as raised:
        remember(store, job(model={"uri": "other"}), "second")
    assert reason(raised) == "JobChanged"


def test_what_the_first_attempt_found_stays(store: Store) -> None:
    assert resolved(store) is None
    resolve(store, Resolved("commit-1", "data-1"))
    resolve(store, Resolved("commit-2", "data-2"))
    assert resolved(store) == Resolved("commit-1", "data-1")


def test_local_paths_are_made_absolute_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = [{"uri": "out", "format": "Merged"}, {"uri": "s3://b/out", "format": "Adapter"}, {"format": "Adapter"}]
    spec = located(job(output=outputs)).spec
    assert spec.model.uri == str(tmp_path / "m")
    assert spec.dataset.train[0].uri == str(tmp_path / "d" / "*.jsonl")
    assert [output.uri for output in spec.output] == [str(tmp_path / "out"), "s3://b/out", ""]


@pytest.mark.parametrize(
    "outputs",
    [
        [{"uri": "./m/", "format": "Adapter"}],
        [{"uri": "out", "format": "Adapter"}, {"uri": "x/../out", "format": "Merged"}],
        [{"uri": "link", "format": "Merged"}],
    ],
)
def test_an_output_never_replaces_the_base_model_or_another_output(
    outputs: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "m")
    with pytest.raises(FinetuneError) as raised:
        located(job(output=outputs))
    assert reason(raised) == "OutputOverwrites"
