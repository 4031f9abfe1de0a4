"""An inspection → one HTML file to look at or to pass on.

In: an `Inspection`. Out: HTML with nothing to load and no script; all text that came from elsewhere is escaped. Jinja2 fills
`page.html`, which lies beside this file.
"""

from __future__ import annotations

from importlib.resources import files

import jinja2

from finetune_training.inspection.inspection import Inspection
from finetune_training.inspection.sentences import columns_of, files_of
from finetune_training.show.marks import marked

_LIMIT = 20_000
"""Of one row, so many characters."""


def render_page(inspection: Inspection, *, job: str) -> str:
    """The page as HTML text."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    page = template.render(
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
    # A lone surrogate (JSON can hold one) cannot be written to a file.
    return page.encode("utf-8", "replace").decode()
