"""Attempts: claims, starting anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_training.checkpoint.lineage import check_fence
from finetune_training.checkpoint.run_folder import remember
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.contract.spec import Job
from finetune_training.driver.attempt import claim, start_anew
from finetune_training.store.storage import Store

JOB = Job.model_validate({"name": "run", "spec": {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d/*.jsonl"}]}}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def test_two_processes_never_have_the_same_attempt(store: Store) -> None:
    assert [claim(store).number for _ in range(3)] == [1, 2, 3]


def test_a_given_number_is_claimed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_ATTEMPT", "7")
    assert claim(store).number == 7
    with pytest.raises(FinetuneError) as raised:
        claim(store)
    assert raised.value.failure.reason == "AttemptClaimed"


def test_starting_anew_fences_whoever_still_runs_and_keeps_the_data(store: Store) -> None:
    old = claim(store)
    for key in ("data/x/manifest.json", "checkpoints/step-00000001-a1/manifest.json", "result/metrics.json"):
        store.put(key, b"{}")
    remember(store, JOB, "yaml")
    new = start_anew(store)
    with pytest.raises(FinetuneError) as raised:
        check_fence(store, old.turn)
    assert raised.value.failure.cls is FailureClass.FENCED
    check_fence(store, new.turn)
    assert new.inherited == []
    kept = [f"attempts/{new.number}/claim", f"attempts/{new.number}/inherits.json", "data/x/manifest.json"]
    assert [entry.key for entry in store.entries()] == kept
