"""Where a run begins: its own checkpoint before another run's, and that before nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_training.checkpoint.load import Restored
from finetune_training.checkpoint.resume_from import Elsewhere
from finetune_training.events.progress import Event
from finetune_training.events.result import Scores
from finetune_training.worker import start as room
from finetune_training.worker.start import Start, start

BASELINE = Scores(loss=3.0, perplexity=20.0, supervised_tokens=9)
WORLD: Any = SimpleNamespace(rank=0)


def restored(name: str, step: int) -> Restored:
    manifest: Any = SimpleNamespace(step=step, reached=SimpleNamespace(baseline=BASELINE))
    return Restored(name, Path("universal"), Path("source"), manifest, f"s3://run/{name}")


OWN, OTHERS = restored("step-00000007-a1", 7), restored("step-00000050-a3", 50)
GOES_ON = Elsewhere(OTHERS.name, restored=OTHERS)
WEIGHTS = Elsewhere(OTHERS.name, weights=Path("weights.pt"))


def begin(patch: pytest.MonkeyPatch, own: Restored | None, elsewhere: Elsewhere | None) -> tuple[Start, list[str]]:
    """What was decided, and the folders that were read into."""
    read: list[str] = []

    def restoring(store: Any, names: Any, *, cache: Path, **_: Any) -> Restored | None:
        read.append(cache.name)
        return own

    def resuming(spec: Any, *, cache: Path, **_: Any) -> Elsewhere | None:
        read.append(cache.name)
        return elsewhere

    patch.setattr(room, "restore", restoring)
    patch.setattr(room, "resume_from", resuming)
    task: Any = SimpleNamespace(
        store=None, inherited=[], facts=None, staging=Path("staging"), job=SimpleNamespace(spec=None)
    )
    events: list[Event] = []
    return start(task, WORLD, events.append), read


@pytest.mark.parametrize(
    ("own", "elsewhere", "expected", "read"),
    [
        pytest.param(OWN, GOES_ON, Start(own=OWN), ["restored"], id="its own checkpoint"),
        pytest.param(None, GOES_ON, Start(elsewhere=GOES_ON), ["restored", "resume-from"], id="another run's"),
        pytest.param(None, WEIGHTS, Start(elsewhere=WEIGHTS), ["restored", "resume-from"], id="another run's weights"),
        pytest.param(None, None, Start(), ["restored", "resume-from"], id="nothing"),
    ],
)
def test_a_run_begins_with_the_first_that_there_is(
    monkeypatch: pytest.MonkeyPatch, own: Restored | None, elsewhere: Elsewhere | None, expected: Start, read: list[str]
) -> None:
    assert begin(monkeypatch, own, elsewhere) == (expected, read)


@pytest.mark.parametrize(
    ("begins", "step", "folder", "baseline"),
    [
        (Start(own=OWN), 7, OWN.folder, BASELINE),
        (Start(elsewhere=GOES_ON), 50, OTHERS.folder, BASELINE),
        (Start(elsewhere=WEIGHTS), 0, None, None),
        (Start(), 0, None, None),
    ],
    ids=["own", "goes on", "weights", "nothing"],
)
def test_only_a_whole_checkpoint_has_a_step_and_what_the_engine_loads(
    begins: Start, step: int, folder: Path | None, baseline: Scores | None
) -> None:
    assert (begins.step, begins.folder, begins.baseline) == (step, folder, baseline)


def test_only_what_is_elsewhere_is_put_into_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[Elsewhere] = []
    monkeypatch.setattr(room, "begin_with", lambda elsewhere, model, world: put.append(elsewhere))
    for each in (Start(), Start(own=OWN), Start(elsewhere=WEIGHTS), Start(elsewhere=GOES_ON)):
        each.put_into(None, WORLD)
    assert put == [WEIGHTS, GOES_ON]
