"""All pages are of one frame: what each of them must have is said once."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import finetune_training
from finetune_training.show.frame import filled

FRAME = "frame.html"
SAID_ONCE = ("<!doctype", "Content-Security-Policy", "color-scheme", "--page:", "--mono:", "<title>", "<body>")


def test_every_page_is_of_the_frame_and_says_nothing_of_it_again() -> None:
    root = Path(str(files(finetune_training)))
    pages = {path.name: path.read_text(encoding="utf-8") for path in root.rglob("*.html")}
    frame = pages.pop(FRAME)
    assert set(pages) == {"page.html", "report.html"}
    assert all(said in frame for said in SAID_ONCE)
    for name, page in pages.items():
        assert page.startswith(f'{{% extends "{FRAME}" %}}'), name
        assert not [said for said in SAID_ONCE if said in page], name


def test_what_comes_from_elsewhere_is_escaped_and_can_be_written() -> None:
    page = filled(
        "finetune_training.inspection",
        "page.html",
        title="</title><b>\ud800",
        job="<i>",
        sources=(),
        rows=(),
        checks=(),
    )
    assert "<title>&lt;/title&gt;&lt;b&gt;?</title>" in page
    assert "<h1>&lt;i&gt;</h1>" in page
