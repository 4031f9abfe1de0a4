"""A row as the model sees it → HTML: what is learnt stands in `<mark>`.

In: a `Specimen`, whose text may come from anywhere. Out: markup in which all of that text is escaped. Report and inspection
show rows alike, because both take them from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from markupsafe import Markup, escape

from finetune_training.events import wording
from finetune_training.events.specimen import Piece, Specimen


def marked(row: Specimen) -> Markup:
    """The row's text. Pieces that still have the ids of their tokens show them to who points at them."""
    return Markup("").join(_runs(row))


def _runs(row: Specimen) -> Iterator[Markup]:
    for learnt, pieces in groupby(row.pieces, key=lambda piece: piece.learnt):
        inner = Markup("").join(map(_piece, pieces))
        yield Markup("<mark>{}</mark>").format(inner) if learnt else inner


def _piece(piece: Piece) -> Markup:
    text = escape(wording.printable(piece.text, "utf-8"))
    kind = Markup(' class="special"') if piece.special else Markup("")
    if piece.ids:
        ids = " ".join(map(str, piece.ids))
        return Markup('<span title="{}"{}>{}</span>').format(ids, kind, text)
    return Markup("<span{}>{}</span>").format(kind, text) if piece.special else text
