"""A row as the model sees it: what travels with a run, and what is left out of a long one."""

from __future__ import annotations

import json
from dataclasses import asdict

from finetune_training.events.specimen import Piece, Specimen, joined

PIECES = (
    Piece("<s>", learnt=False, special=True, ids=(1,)),
    Piece("ask", learnt=False, ids=(5,)),
    Piece("ed", learnt=False, ids=(6,)),
    Piece("answer", learnt=True, ids=(7, 8)),
    Piece("</s>", learnt=True, special=True, ids=(2,)),
)


def specimen(*pieces: Piece) -> Specimen:
    return Specimen("rows.jsonl:3", "00000000000000ff", "Messages", 6, 3, pieces, ("cut",))


def test_pieces_that_look_the_same_become_one() -> None:
    assert [piece.text for piece in joined(PIECES)] == ["<s>", "asked", "answer", "</s>"]


def test_a_short_row_keeps_all_of_its_text_and_no_ids() -> None:
    short = specimen(*PIECES).shortened(100)
    assert "".join(piece.text for piece in short.pieces) == "<s>askedanswer</s>"
    assert {piece.ids for piece in short.pieces} == {()}


def test_of_a_long_row_the_middle_is_left_out_and_counted() -> None:
    short = specimen(Piece("q" * 600, learnt=False), Piece("a" * 400, learnt=True)).shortened(300)
    assert [piece.text for piece in short.pieces] == ["q" * 200, " … 700 characters … ", "a" * 100]
    assert [piece.learnt for piece in short.pieces] == [False, False, True]


def test_a_row_comes_back_from_json_as_it_was() -> None:
    row = specimen(*PIECES)
    assert Specimen.from_record(json.loads(json.dumps(asdict(row)))) == row


def test_facts_leave_out_what_is_not_known() -> None:
    assert specimen(*PIECES).facts == ("row 00000000000000ff", "Messages", "6 tokens, 3 learnt")
    assert Specimen("rows.jsonl:3", "", "Text", 0, 0, (), dropped=True).facts == ("Text",)
