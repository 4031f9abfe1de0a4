"""Rows in HTML: what is learnt is marked, and nothing that a row holds is obeyed."""

from __future__ import annotations

from finetune_training.events.specimen import Piece, Specimen
from finetune_training.show.marks import marked


def row(*pieces: Piece) -> Specimen:
    return Specimen("rows.jsonl:1", "0" * 16, "Text", 2, 1, pieces)


def test_learnt_pieces_that_touch_share_a_mark_and_special_ones_are_seen() -> None:
    pieces = (Piece("ask", learnt=False), Piece("say", learnt=True), Piece("</s>", learnt=True, special=True))
    assert marked(row(*pieces)) == 'ask<mark>say<span class="special">&lt;/s&gt;</span></mark>'


def test_tokens_say_their_numbers() -> None:
    assert marked(row(Piece("漢", learnt=False, ids=(7, 8)))) == '<span title="7 8">漢</span>'


def test_nothing_in_a_row_becomes_markup_or_turns_the_page_around() -> None:
    hostile = "</mark><script>alert('1')</script>\"\x1b[31m\u202e&lt;"
    for piece in (Piece(hostile, learnt=True), Piece(hostile, learnt=False, ids=(1,))):
        html = str(marked(row(piece)))
        assert "<script" not in html
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert html.count("</mark>") == (1 if piece.learnt else 0)
        assert "&amp;lt;" in html
