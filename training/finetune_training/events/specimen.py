"""A row as the model sees it.

In: what data/specimens.py has found. Out: a `Specimen`, a value that travels: from the preparation to a terminal, a page, the
report, and through `metrics.jsonl` to the report of a later attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from finetune_training.events import wording


@dataclass(frozen=True)
class Piece:
    """The text of a token, or of several that make up one character. `special`: begins or ends something and is no text. `ids`:
    the tokens; none where several pieces were put together."""

    text: str
    learnt: bool
    special: bool = False
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Specimen:
    """`where`: the row's place. `identity`: of its content, as the prepared data has it, in hexadecimal. `tokens`: its length,
    of which `learnt` are learnt. `notes`: what else has become of it, in a few words each."""

    where: str
    identity: str
    kind: str
    tokens: int
    learnt: int
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()
    dropped: bool = False

    @property
    def facts(self) -> tuple[str, ...]:
        """What is to be known of it besides its text."""
        tokens = f"{wording.times(self.tokens, 'token')}, {self.learnt:,} learnt" if self.tokens else ""
        identity = f"row {self.identity}" if self.identity else ""
        return tuple(each for each in (identity, self.kind, tokens) if each)

    def shortened(self, limit: int) -> Specimen:
        """Without the ids, and with the middle left out where the text is longer: a row ends with what it teaches."""
        whole = tuple(joined(self.pieces))
        length = sum(len(piece.text) for piece in whole)
        if length <= limit:
            return replace(self, pieces=whole)
        head, tail = limit * 2 // 3, length - limit // 3
        gap = Piece(f" … {tail - head:,} characters … ", learnt=False, special=True)
        return replace(self, pieces=(*_cut(whole, 0, head), gap, *_cut(whole, tail, length)))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Specimen:
        """What `asdict` and JSON have made of one."""
        pieces = tuple(Piece(**{**piece, "ids": tuple(piece["ids"])}) for piece in record["pieces"])
        return cls(**{**record, "pieces": pieces, "notes": tuple(record["notes"])})


def joined(pieces: tuple[Piece, ...]) -> Iterator[Piece]:
    """Pieces that look the same, as one."""
    for (learnt, special), alike in groupby(pieces, key=lambda piece: (piece.learnt, piece.special)):
        yield Piece("".join(piece.text for piece in alike), learnt, special)


def _cut(pieces: tuple[Piece, ...], start: int, stop: int) -> Iterator[Piece]:
    """What lies between two places in the text."""
    at = 0
    for piece in pieces:
        text = piece.text[max(0, start - at) : max(0, stop - at)]
        if text:
            yield replace(piece, text=text)
        at += len(piece.text)
