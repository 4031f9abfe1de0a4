"""Saving: the manifest makes a checkpoint, and a newer attempt ends an older one's say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_training.checkpoint import lineage
from finetune_training.checkpoint import save as saving
from finetune_training.checkpoint.lineage import committed
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.events.progress import CheckpointSaved, Warned
from tests.checkpoints import BASELINE, Run, save, saved


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_checkpoint_is_there_when_its_manifest_is(run: Run) -> None:
    saved(run.checkpointer(), 5)
    restored = run.restore(committed(run.store))
    assert restored is not None
    assert (restored.manifest.step, restored.manifest.reached.samples) == (5, 20)
    assert restored.manifest.reached.baseline == BASELINE
    assert (restored.folder / "state.json").read_text() == "5"
    assert [event.step for event in run.events if isinstance(event, CheckpointSaved)] == [5]
    assert not any((run.folder / "staging-1").iterdir())


def test_without_a_manifest_there_is_no_checkpoint(run: Run) -> None:
    checkpointer = run.checkpointer()
    save(checkpointer, 5)
    checkpointer._pending.work.result()  # type: ignore[union-attr]  # uploaded, never committed: the process died in between
    assert run.store.entries("checkpoints")
    assert committed(run.store) == []


def test_only_the_newest_checkpoints_are_kept(run: Run) -> None:
    saved(run.checkpointer(keep=2), 5, 10, 15)
    assert committed(run.store) == ["step-00000015-a1", "step-00000010-a1"]
    assert not run.store.entries("checkpoints/step-00000005-a1")


def test_the_best_checkpoint_of_all_attempts_is_kept_besides_the_newest(run: Run) -> None:
    first = run.checkpointer(keep=1)
    saved(first, 5, score=2.0)
    saved(first, 10, score=3.0)
    second = run.checkpointer(attempt=2, keep=1)
    saved(second, 15, score=2.5)
    assert committed(run.store) == ["step-00000015-a2", "step-00000005-a1"]
    saved(second, 20, score=1.5)
    assert committed(run.store) == ["step-00000020-a2"]


def test_the_checkpoint_that_was_resumed_from_is_spared(run: Run) -> None:
    saved(run.checkpointer(keep=1), 5)
    saved(run.checkpointer(attempt=2, keep=1, resumed_from="step-00000005-a1"), 10, 15)
    assert committed(run.store) == ["step-00000015-a2", "step-00000005-a1"]


def test_an_attempt_that_began_anew_keeps_what_it_saves(run: Run) -> None:
    """A damaged checkpoint of a higher step must not push out the good ones that came after it."""
    saved(run.checkpointer(keep=1), 1000)
    (run.path("step-00001000-a1") / "state.json").write_text("damaged")
    saved(run.checkpointer(attempt=2, keep=1), 10)
    assert committed(run.store)[0] == "step-00000010-a2"


def test_an_attempt_stops_when_a_newer_one_has_claimed_the_run(run: Run) -> None:
    old = run.checkpointer(attempt=1)
    save(old, 5)
    run.claim(2)
    with pytest.raises(FinetuneError) as raised:
        old.flush()
    assert raised.value.failure.cls is FailureClass.FENCED
    assert committed(run.store) == []


def test_a_stale_attempt_that_slept_between_look_and_commit_neither_commits_nor_deletes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run.checkpointer(attempt=1, keep=1)
    saved(old, 5)
    looks = 0
    look = lineage.check_fence

    def sleeping(*arguments: Any) -> None:
        nonlocal looks
        look(*arguments)
        looks += 1
        if looks == 1:  # asleep until now, and a newer attempt has begun
            assert run.claim(2) == ["step-00000005-a1"]

    monkeypatch.setattr(saving, "check_fence", sleeping)
    save(old, 10)
    with pytest.raises(FinetuneError) as raised:
        old.flush()
    assert raised.value.failure.cls is FailureClass.FENCED
    assert (run.path("step-00000010-a1") / "manifest.json").exists()
    assert committed(run.store) == ["step-00000005-a1"]
    assert (run.path("step-00000005-a1") / "manifest.json").exists()


def test_what_dead_attempts_left_is_removed_by_the_next(run: Run) -> None:
    first = run.checkpointer(attempt=1)
    saved(first, 5)
    save(first, 10)
    first._pending.work.result()  # type: ignore[union-attr]
    second = run.checkpointer(attempt=2)
    saved(second, 10)
    assert run.store.folders("checkpoints") == ["step-00000005-a1", "step-00000010-a2"]


def test_an_upload_that_fails_names_the_rank_and_the_file(run: Run) -> None:
    checkpointer = run.checkpointer()
    (run.folder / "run" / "checkpoints").write_text("in the way")
    save(checkpointer, 5)
    with pytest.raises(FinetuneError) as raised:
        checkpointer.flush()
    assert "Rank 0 could not save global_step/zero_pp_rank_0" in raised.value.failure.message
    assert raised.value.failure.rank == 0


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = run.checkpointer()
    saved(checkpointer, 5)
    usage = shutil.disk_usage(run.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3))
    with pytest.raises(FinetuneError) as raised:
        save(checkpointer, 10)
    assert raised.value.failure.reason == "DiskFull"
    assert "Rank 0 needs" in raised.value.failure.message
    assert committed(run.store) == ["step-00000005-a1"]
    assert not any((run.folder / "staging-1").iterdir())


def test_what_cannot_be_deleted_is_told_and_does_not_end_the_run(run: Run) -> None:
    checkpointer = run.checkpointer(keep=1)
    saved(checkpointer, 5)
    (run.path("step-00000005-a1") / "manifest.json").unlink()
    (run.path("step-00000005-a1") / "manifest.json").mkdir()
    saved(checkpointer, 10)
    assert committed(run.store)[0] == "step-00000010-a1"
    assert any(isinstance(event, Warned) and "could not be deleted" in event.message for event in run.events)
