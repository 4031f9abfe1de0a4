"""The checkpoint protocol: the manifest makes it, the checksums keep it honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from finetune_training.checkpoint import Checkpointer, Facts, committed, restore
from finetune_training.failure import FailureClass, FinetuneError
from finetune_training.progress import CheckpointSaved, Event, Warned
from finetune_training.result import Scores
from finetune_training.storage import Store

T = TypeVar("T")
FACTS = Facts(
    attempt=1, world_size=1, zero_stage=2, method="LoRA", seed=1, global_batch_size=4, data_fingerprint="d", versions={}
)
BASELINE = Scores(loss=4.0, perplexity=54.6, supervised_tokens=100)


@dataclass(frozen=True)
class Alone:
    """A world of one rank."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def gather(self, value: T) -> list[T]:
        return [value]


@dataclass
class Run:
    """A run's folder with one rank that saves."""

    folder: Path
    events: list[Event] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "run"))

    def checkpointer(self, *, attempt: int = 1, keep: int = 2) -> Checkpointer:
        self.store.create(f"attempts/{attempt}/claim", b"")
        facts = FACTS.model_copy(update={"attempt": attempt})
        staging = self.folder / f"staging-{attempt}"
        return Checkpointer(
            self.store, facts=facts, world=Alone(), staging=staging, keep=keep, report=self.events.append
        )

    def restore(self, **changes: Any) -> Any:
        facts = FACTS.model_copy(update=changes)
        return restore(self.store, facts=facts, world=Alone(), cache=self.folder / "cache", report=self.events.append)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def writing(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "global_step").mkdir()
        (folder / "global_step" / "optimizer.pt").write_text(f"optimizer {text}")
        (folder / "state.json").write_text(text)

    return write


def save(checkpointer: Checkpointer, step: int) -> None:
    checkpointer.save(step, writing(str(step)), samples=4 * step, baseline=BASELINE)


def test_a_checkpoint_is_there_when_its_manifest_is(run: Run) -> None:
    checkpointer = run.checkpointer()
    save(checkpointer, 5)
    checkpointer.flush()
    restored = run.restore()
    assert (restored.manifest.step, restored.manifest.samples, restored.manifest.baseline) == (5, 20, BASELINE)
    assert (restored.folder / "global_step" / "optimizer.pt").read_text() == "optimizer 5"
    assert [event.step for event in run.events if isinstance(event, CheckpointSaved)] == [5]
    assert not any((run.folder / "staging-1").iterdir())


def test_without_a_manifest_there_is_no_checkpoint(run: Run) -> None:
    checkpointer = run.checkpointer()
    save(checkpointer, 5)
    checkpointer.close()  # uploaded, never committed: the process died in between
    assert run.store.entries("checkpoints")
    assert committed(run.store) == []
    assert run.restore() is None


@pytest.mark.parametrize("name", ["state.json", "global_step/optimizer.pt", "manifest.json"])
def test_a_damaged_file_is_found_and_the_checkpoint_before_is_used(run: Run, name: str) -> None:
    checkpointer = run.checkpointer()
    for step in (5, 10):
        save(checkpointer, step)
    checkpointer.flush()
    path = run.folder / "run" / "checkpoints" / "step-00000010-a1" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    assert run.restore().manifest.step == 5
    assert any(isinstance(event, Warned) and "step-00000010-a1" in event.message for event in run.events)


def test_a_missing_file_is_found_too(run: Run) -> None:
    checkpointer = run.checkpointer()
    save(checkpointer, 5)
    checkpointer.flush()
    (run.folder / "run" / "checkpoints" / "step-00000005-a1" / "state.json").unlink()
    assert run.restore() is None


def test_only_the_newest_are_kept(run: Run) -> None:
    checkpointer = run.checkpointer(keep=2)
    for step in (5, 10, 15):
        save(checkpointer, step)
    checkpointer.flush()
    assert committed(run.store) == ["step-00000015-a1", "step-00000010-a1"]
    assert not run.store.entries("checkpoints/step-00000005-a1")


def test_an_attempt_that_began_anew_keeps_what_it_saves(run: Run) -> None:
    """A damaged checkpoint of a higher step must not push out the good ones that came after it."""
    first = run.checkpointer(attempt=1, keep=1)
    save(first, 1000)
    first.flush()
    (run.folder / "run" / "checkpoints" / "step-00001000-a1" / "state.json").write_text("damaged")
    second = run.checkpointer(attempt=2, keep=1)
    save(second, 10)
    second.flush()
    assert run.restore().manifest.step == 10


def test_the_newest_is_chosen_by_number_not_by_name(run: Run) -> None:
    for attempt in (9, 10):
        checkpointer = run.checkpointer(attempt=attempt)
        save(checkpointer, 5)
        checkpointer.flush()
    assert committed(run.store)[0] == "step-00000005-a10"


def test_an_attempt_stops_when_a_newer_one_has_claimed_the_run(run: Run) -> None:
    old = run.checkpointer(attempt=1)
    save(old, 5)
    run.checkpointer(attempt=2)
    with pytest.raises(FinetuneError) as raised:
        old.flush()
    assert raised.value.failure.cls is FailureClass.FENCED
    assert committed(run.store) == []


@pytest.mark.parametrize("changes", [{"world_size": 2}, {"zero_stage": 3}, {"data_fingerprint": "other"}])
def test_a_checkpoint_that_does_not_fit_is_refused_with_what_differs(run: Run, changes: dict[str, Any]) -> None:
    checkpointer = run.checkpointer()
    save(checkpointer, 5)
    checkpointer.flush()
    with pytest.raises(FinetuneError) as raised:
        run.restore(**changes)
    assert raised.value.failure.reason == "CheckpointDoesNotFit"
    assert "--fresh" in raised.value.failure.remedy


def test_an_upload_that_fails_names_the_rank(run: Run) -> None:
    checkpointer = run.checkpointer()
    (run.folder / "run" / "checkpoints").write_text("in the way")
    save(checkpointer, 5)
    with pytest.raises(FinetuneError) as raised:
        checkpointer.flush()
    assert "Rank 0" in raised.value.failure.message
    assert raised.value.failure.rank == 0
