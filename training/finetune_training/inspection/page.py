"""An inspection → one HTML file to look at or to pass on.

In: an `Inspection`. Out: HTML with nothing to load and no script; all text that came from elsewhere is escaped. `page.html`,
which lies beside this file, is a page of show/frame.py.
"""

from __future__ import annotations

from finetune_training.inspection.inspection import Inspection
from finetune_training.inspection.sentences import columns_of, files_of
from finetune_training.show.frame import filled
from finetune_training.show.marks import marked

_LIMIT = 20_000
"""Of one row, so many characters."""


def render_page(inspection: Inspection, *, job: str) -> str:
    """The page as HTML text."""
    return filled(
        __package__,
        "page.html",
        title=f"{job} · what will be trained",
        job=job,
        sources=[
            {
                "name": source.source,
                "files": files_of(source),
                "first": source.first,
                **dict(zip(("used", "ignored"), columns_of(source), strict=True)),
            }
            for source in inspection.sources
        ],
        rows=[
            {
                "where": row.where,
                "facts": row.facts,
                "notes": row.notes,
                "text": marked(
                    row if sum(len(piece.text) for piece in row.pieces) <= _LIMIT else row.shortened(_LIMIT)
                ),
            }
            for row in inspection.rows
        ],
        checks=inspection.checks,
    )
