"""What a checkpoint says of itself.

In: what a save has found out. Out: `manifest.json`, the one object that makes files a checkpoint (docs/checkpoints.md). It
carries its own digest, so that a manifest of which one bit has changed is none. Pure, but for reading it from a store.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Self

from finetune_training.checkpoint.turn import Turn
from finetune_training.contract.record import Record
from finetune_training.events.result import Scores
from finetune_training.store.storage import Store

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})-a([\d.]+)")
_UNIVERSAL = re.compile(r"universal-a([\d.]+)\.json")
_BLANK = "0" * 64
_OF_ONE_RANK = re.compile(r"(^|/)(\w*zero_pp_rank_\d+_mp_rank_\d+_\w+\.pt|rng_state_\d+\.pth)$")
"""DeepSpeed's and transformers' names of what only the rank that wrote it reads again."""


class Sealed(Record):
    """A JSON object with a digest of its own text: sha256 over the text with 64 zeros in the digest's place."""

    digest: str = _BLANK

    def to_bytes(self) -> bytes:
        """The text, sealed."""
        text = self.model_copy(update={"digest": _BLANK}).model_dump_json(by_alias=True, indent=2).encode()
        return text.replace(_BLANK.encode(), hashlib.sha256(text).hexdigest().encode(), 1)

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Raises ValueError when it is not what was sealed."""
        record = cls.model_validate_json(text)
        blank = text.replace(record.digest.encode(), _BLANK.encode(), 1)
        if hashlib.sha256(blank).hexdigest() != record.digest:
            raise ValueError("its digest is not that of its text")
        return record


class CheckpointFile(Record):
    """One file; `name` is relative to the checkpoint's folder, `rank` wrote it."""

    name: str
    bytes: int
    sha256: str
    rank: int


class Facts(Record):
    """What a checkpoint depends on. The number of ranks may change from attempt to attempt, and so may versions."""

    attempt: int
    restart: int = 0
    world_size: int
    zero_stage: int
    method: str
    seed: int
    global_batch_size: int
    data_fingerprint: str
    versions: dict[str, str]

    @property
    def turn(self) -> Turn:
        return Turn(self.attempt, self.restart)


class Reached(Record):
    """Where the run was: optimizer steps, packed samples used, epochs; `metrics` of this step (`loss`, and `evalLoss` if the
    held-out rows were scored at it); `baseline`: the base model's scores, found once per run."""

    step: int
    samples: int
    epoch: float
    metrics: dict[str, float]
    baseline: Scores | None

    @property
    def score(self) -> float | None:
        """What the best checkpoint has least of."""
        return self.metrics.get("evalLoss")


class CheckpointManifest(Sealed):
    """The proof of a checkpoint. `retires`: names of checkpoints that are none any more since this one is there."""

    format: int = 1
    reached: Reached
    facts: Facts
    files: list[CheckpointFile]
    retires: list[str]
    created: float

    @property
    def step(self) -> int:
        return self.reached.step

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    def needed_by(self, rank: int) -> list[CheckpointFile]:
        """The files that only `rank` reads, when as many ranks read as wrote."""
        return [file for file in self.files if file.rank == rank and _OF_ONE_RANK.search(file.name)]

    def needed_by_all(self) -> list[CheckpointFile]:
        """The files that every rank reads."""
        return [file for file in self.files if not _OF_ONE_RANK.search(file.name)]


def name_of(step: int, turn: Turn) -> str:
    """A checkpoint's folder below FOLDER."""
    return f"step-{step:08d}-a{turn}"


def parse_name(name: str) -> tuple[Turn, int] | None:
    """(turn, step) of a checkpoint's folder, None for another name. Later is greater: the newest turn began anew from what it
    could load."""
    match = _NAME.fullmatch(name)
    turn = Turn.of(match[2]) if match else None
    return (turn, int(match[1])) if match and turn else None


def universal_name(turn: str) -> str:
    """Of a checkpoint's universal form that was made in `turn`: of its folder, and with `.json` of the list of its files."""
    return f"universal-a{turn}"


def lists_universal(file: str) -> bool:
    """Whether the file of that name lists a universal form."""
    match = _UNIVERSAL.fullmatch(file)
    return bool(match and Turn.of(match[1]))


def manifest_key(name: str) -> str:
    return f"{FOLDER}/{name}/{MANIFEST}"


def read_manifest(store: Store, name: str) -> CheckpointManifest | str:
    """The manifest, or what is wrong with it."""
    text = store.get(manifest_key(name))
    if text is None:
        return "its manifest is gone"
    try:
        return CheckpointManifest.from_bytes(text)
    except ValueError as error:
        return f"{MANIFEST} is damaged: {_brief(error)}"


def _brief(error: Any) -> str:
    return str(error).splitlines()[0][:200]
