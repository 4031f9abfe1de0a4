"""The manifest: every bit of it counts, and each rank finds its files."""

from __future__ import annotations

import hashlib
import re

import pytest

from finetune_training.checkpoint.manifest import CheckpointFile, CheckpointManifest, Reached, name_of, parse_name
from finetune_training.checkpoint.turn import Turn
from tests.checkpoints import BASELINE, FACTS

NAMES = {
    "latest": 0,
    "trainer_state.json": 0,
    "scheduler.pt": 0,
    "global_step5/mp_rank_00_model_states.pt": 0,
    "global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": 0,
    "global_step5/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt": 1,
    "rng_state_0.pth": 0,
    "rng_state_1.pth": 1,
}
MANIFEST = CheckpointManifest(
    reached=Reached(step=5, samples=20, epoch=0.1, metrics={"loss": 2.5, "evalLoss": 2.0}, baseline=BASELINE),
    facts=FACTS,
    files=[CheckpointFile(name=name, bytes=1, sha256="0" * 64, rank=rank) for name, rank in NAMES.items()],
    retires=["step-00000001-a1"],
    created=1.5,
)


def test_a_manifest_comes_back_as_it_was() -> None:
    text = MANIFEST.to_bytes()
    again = CheckpointManifest.from_bytes(text)
    assert again.model_copy(update={"digest": MANIFEST.digest}) == MANIFEST
    assert again.to_bytes() == text


def test_the_digest_of_a_manifest_is_what_the_docs_say() -> None:
    text = MANIFEST.to_bytes().decode()
    digest = re.search(r'"digest": "(\w+)"', text)
    assert digest
    assert hashlib.sha256(text.replace(digest[1], "0" * 64, 1).encode()).hexdigest() == digest[1]


def test_no_bit_of_a_manifest_can_change() -> None:
    text = MANIFEST.to_bytes()
    for place in range(len(text)):
        for bit in (0, 3, 7):
            changed = bytearray(text)
            changed[place] ^= 1 << bit
            with pytest.raises(ValueError):  # noqa: PT011 (of several libraries)
                CheckpointManifest.from_bytes(bytes(changed))


def test_a_rank_needs_its_own_files_and_those_of_all() -> None:
    own = {rank: [file.name for file in MANIFEST.needed_by(rank)] for rank in (0, 1)}
    common = [file.name for file in MANIFEST.needed_by_all()]
    assert own[1] == ["global_step5/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", "rng_state_1.pth"]
    assert sorted([*own[0], *own[1], *common]) == sorted(NAMES)
    assert "global_step5/mp_rank_00_model_states.pt" in common


def test_names_are_ordered_by_turn_then_step() -> None:
    names = [
        name_of(1000, Turn(9)), name_of(200_000_000, Turn(9)), name_of(7, Turn(9, 2)), name_of(6, Turn(9, 10)),
        name_of(5, Turn(10)),
    ]  # fmt: skip
    assert names[2] == "step-00000007-a9.2"
    names = names[::-1]
    assert sorted(names, key=lambda name: parse_name(name) or (Turn(0), 0)) == names[::-1]
    assert [
        parse_name(name) for name in ("global_step5", "step-00000005-a", "step-00000005-a1.", "step-00000005-a1.0")
    ] == [None] * 4
