"""Loading: only what is exactly what was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_training.checkpoint.lineage import committed
from finetune_training.contract.failure import FinetuneError
from finetune_training.events.progress import Warned
from tests.checkpoints import Run, saved

OPTIMIZER = "global_step/zero_pp_rank_0_mp_rank_00_optim_states.pt"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(tmp_path)
    saved(found.checkpointer(), 5, 10)
    return found


@pytest.mark.parametrize("name", ["state.json", OPTIMIZER, "manifest.json"])
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_wrong_bit_is_found_and_the_checkpoint_before_is_used(run: Run, name: str, place: float) -> None:
    path = run.path("step-00000010-a1") / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if place > 0 else int(place)] ^= 1
    path.write_bytes(content)
    restored = run.restore(committed(run.store))
    assert restored is not None
    assert restored.manifest.step == 5
    (warning,) = [event.message for event in run.events if isinstance(event, Warned)]
    assert "step-00000010-a1" in warning
    assert name in warning


def test_a_checkpoint_that_lacks_a_file_is_not_used(run: Run) -> None:
    for name in committed(run.store):
        (run.path(name) / "state.json").unlink()
    assert run.restore(committed(run.store)) is None
    assert "state.json is missing" in " ".join(event.message for event in run.events if isinstance(event, Warned))


@pytest.mark.parametrize("changes", [{"zero_stage": 3}, {"data_fingerprint": "other"}, {"method": "Full"}, {"seed": 2}])
def test_a_checkpoint_that_does_not_fit_is_refused_with_what_differs(run: Run, changes: dict[str, Any]) -> None:
    with pytest.raises(FinetuneError) as raised:
        run.restore(committed(run.store), **changes)
    assert raised.value.failure.reason == "CheckpointDoesNotFit"
    assert "--fresh" in raised.value.failure.remedy
