"""The page of an inspection: one file, nothing to load, nothing let through."""

from __future__ import annotations

import pytest

from finetune_training.events.specimen import Piece, Specimen
from finetune_training.inspection.inspection import Inspection
from finetune_training.inspection.page import render_page
from tests.unit.training.inspection.test_terminal import SEEN

HOSTILE = """"'><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>{{ 7*7 }}\ud800"""


def test_the_page_shows_sources_rows_and_checks() -> None:
    html = render_page(SEEN, job="chat")
    assert '<mark><span title="3">say</span><span title="4" class="special">&lt;/s&gt;</span></mark>' in html
    for text in ("37 files, 5.4 MB", "; ignored: id", "9 tokens, 4 learnt", "some are ignored.", "<title>chat"):
        assert text in html


@pytest.mark.parametrize("place", ["text", "where", "note", "job"])
def test_hostile_text_is_shown_and_never_obeyed(place: str) -> None:
    row = Specimen(
        HOSTILE if place == "where" else "a:1",
        "",
        "Text",
        1,
        1,
        (Piece(HOSTILE if place == "text" else "a", learnt=True, ids=(1,)),),
        (HOSTILE if place == "note" else "n",),
    )
    html = render_page(Inspection((), (row,), ()), job=HOSTILE if place == "job" else "j")
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "default-src 'none'" in html
    html.encode()
