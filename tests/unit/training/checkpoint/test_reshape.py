"""What is done around DeepSpeed's conversion; the conversion itself runs in tests/integration/test_reshape.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_training.checkpoint.reshape import _trim, arranged, convert, loading, settle


def replicated(folder: Path, *, ranks: int) -> Path:
    """A checkpoint at ZeRO stage 0."""
    (folder / "global_step3").mkdir(parents=True)
    (folder / "global_step3" / "mp_rank_00_model_states.pt").write_text("everything")
    (folder / "latest").write_text("global_step3")
    for name in ("trainer_state.json", "manifest.json", "universal-a2.json", "universal-a2.1.json"):
        (folder / name).write_text("{}")
    for rank in range(ranks):
        (folder / (f"rng_state_{rank}.pth" if ranks > 1 else "rng_state.pth")).write_text(f"random of {rank}")
    return folder


def reshaped(source: Path, out: Path, *, ranks: int) -> Path:
    """The checkpoint `source` as `ranks` ranks see it."""
    convert(source, out.with_name("universal"))
    arranged(out.with_name("universal"), out, ranks=ranks)
    return out


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (2, 1, {"": 0}),
        (1, 2, {"_0": 0, "_1": 0}),
        (2, 4, {"_0": 0, "_1": 1, "_2": 0, "_3": 1}),
        (3, 2, {"_0": 0, "_1": 1}),
    ],
)
def test_each_rank_takes_a_random_state_of_a_rank_that_saved_one(
    tmp_path: Path, before: int, now: int, expected: dict[str, int]
) -> None:
    reshaped(replicated(tmp_path / "from", ranks=before), tmp_path / "to", ranks=now)
    found = {path.stem.removeprefix("rng_state"): path.read_text() for path in (tmp_path / "to").glob("rng_state*")}
    assert found == {suffix: f"random of {rank}" for suffix, rank in expected.items()}


def test_random_states_keep_the_order_of_the_ranks(tmp_path: Path) -> None:
    reshaped(replicated(tmp_path / "from", ranks=12), tmp_path / "to", ranks=11)
    assert (tmp_path / "to" / "rng_state_10.pth").read_text() == "random of 10"


def test_a_checkpoint_without_random_states_is_converted(tmp_path: Path) -> None:
    reshaped(replicated(tmp_path / "from", ranks=0), tmp_path / "to", ranks=2)
    assert not list((tmp_path / "to").glob("rng_state*"))


def test_what_every_rank_holds_is_taken_as_it_is(tmp_path: Path) -> None:
    reshaped(replicated(tmp_path / "from", ranks=2), tmp_path / "to", ranks=1)
    assert (tmp_path / "to" / "latest").read_text() == "global_step3"
    assert (tmp_path / "to" / "trainer_state.json").read_text() == "{}"
    assert (tmp_path / "to" / "global_step3" / "mp_rank_00_model_states.pt").read_text() == "everything"
    assert loading(tmp_path / "to") == {}
    assert [path.name for path in (tmp_path / "to").glob("*.json")] == ["trainer_state.json"]


def test_what_was_left_half_done_is_done_anew_and_what_is_there_stays(tmp_path: Path) -> None:
    source = replicated(tmp_path / "from", ranks=1)
    (tmp_path / "to.part").mkdir()
    (tmp_path / "to.part" / "old").write_text("of a process that was killed")
    convert(source, tmp_path / "to")
    assert not (tmp_path / "to" / "old").exists()
    (tmp_path / "to" / "mark").write_text("")
    convert(source, tmp_path / "to")
    assert (tmp_path / "to" / "mark").exists()


def test_options_that_differ_between_groups_are_left_to_the_trainer(tmp_path: Path) -> None:
    step = torch.tensor(3.0)
    groups = [{"lr": 0.1, "weight_decay": 0.5, "params": [0]}, {"lr": 0.1, "weight_decay": 0.0, "params": [1]}]
    optimizer: dict[str, Any] = {"state": {0: {"step": step, "exp_avg": torch.zeros(9)}}, "param_groups": groups}
    file = tmp_path / "optimizer_state.pt"
    torch.save({"loss_scaler": None, "fp32_flat_groups": [torch.zeros(9)], "optimizer_state_dict": optimizer}, file)
    _trim(file)
    slim = torch.load(file, weights_only=False)
    assert slim == {
        "loss_scaler": None,
        "optimizer_state_dict": {"state": {0: {"step": step}}, "param_groups": [{"lr": 0.1}]},
    }


def test_flat_tensors_count_their_steps_apart() -> None:
    step = torch.tensor(3.0)
    state: dict[Any, Any] = {torch.zeros(2): {"step": step}, torch.zeros(3): {"step": step}}
    optimizer = SimpleNamespace(param_groups=[{"fused": None}], state=state, defaults={"fused": None, "amsgrad": False})
    engine = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))
    engine._config = SimpleNamespace(load_universal_checkpoint=True)
    engine.load_universal_checkpoint = lambda: engine._config.load_universal_checkpoint
    settle(engine)
    first, second = (each["step"] for each in state.values())
    first += 1
    assert (first, second) == (4.0, 3.0)
    assert not engine.load_universal_checkpoint()
    assert optimizer.param_groups == [{"fused": None, "amsgrad": False}], "an option that the saved groups did not have"
