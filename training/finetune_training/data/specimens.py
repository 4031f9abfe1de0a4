"""Rows → what the model will see of them, for people. Pure, given a tokenizer.

In: rows, or documents that were prepared from one. Out: `Specimen`s: the text of each token, and which of them are learnt. Rows
are rendered by the functions that prepare the data, so what is shown is what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from finetune_training.data.render import NO_SUPERVISED_TOKEN, Document, Options, Outcome, render
from finetune_training.data.shards import IGNORE
from finetune_training.events.specimen import Piece, Specimen
from finetune_training.sources.rows import Row, identity

_HALF = "\N{REPLACEMENT CHARACTER}"
_LONGEST = 8
"""No character has more tokens."""
_REASONS = {NO_SUPERVISED_TOKEN: "nothing of it is learnt"}


def specimens(rows: Sequence[Row], tokenizer: Any, options: Options) -> list[Specimen]:
    """The rows as they are trained. Raises what rendering raises."""
    return [
        _specimen(row, outcome, tokenizer) for row, outcome in zip(rows, render(rows, tokenizer, options), strict=True)
    ]


def specimen_of(document: Document, tokenizer: Any, *, where: str, row: int, kind: str) -> Specimen:
    """A document of row `row`, as it was prepared."""
    return Specimen(
        where=where,
        identity=shown_identity(row),
        kind=kind,
        tokens=len(document.input_ids),
        learnt=sum(label != IGNORE for label in document.labels),
        pieces=tuple(_pieces(document, tokenizer)),
    )


def shown_identity(row: int) -> str:
    """A row's identity as people read and write it."""
    return f"{row:016x}"


def _specimen(row: Row, outcome: Outcome, tokenizer: Any) -> Specimen:
    kind, documents = type(row).__name__, outcome.documents
    if not documents:
        pieces, notes = (Piece(outcome.shown, learnt=False),), _dropped(outcome)
        return Specimen(row.where, shown_identity(identity(row)), kind, 0, 0, pieces, notes, dropped=True)
    found = specimen_of(documents[0], tokenizer, where=row.where, row=identity(row), kind=kind)
    split = (f"the first of its {len(documents):,} samples",) if len(documents) > 1 else ()
    cut = ("cut to maxLength: its end is lost",) if outcome.truncated else ()
    lost = (f"the chat template leaves out {', '.join(outcome.lost)}",) if outcome.lost else ()
    return replace(found, notes=(*split, *cut, *lost))


def _dropped(outcome: Outcome) -> tuple[str, ...]:
    why = f"dropped: {_REASONS.get(outcome.dropped, outcome.dropped)}"
    return (f"{why}, because that lies past maxLength" if outcome.truncated else why,)


def _pieces(document: Document, tokenizer: Any) -> Iterator[Piece]:
    """The tokens' texts, which put together are the document's. A token's text may depend on the one before it, and some tokens
    are a part of a character."""
    ids, special = document.input_ids, frozenset(tokenizer.all_special_ids)
    start = done = 0
    before = ""
    for stop in range(1, len(ids) + 1):
        now = _decode(ids[start:stop], tokenizer)
        if now.endswith(_HALF) and stop < len(ids) and stop - done < _LONGEST:
            continue
        tokens = tuple(ids[done:stop])
        text = now[len(before) :] or "".join(tokenizer.convert_ids_to_tokens(list(tokens)))
        learnt = any(label != IGNORE for label in document.labels[done:stop])
        yield Piece(text, learnt, special=all(token in special for token in tokens), ids=tokens)
        start, done = done, stop
        before = _decode(tokens, tokenizer)


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
