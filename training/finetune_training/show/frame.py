"""Templates of pages → HTML: one file each, with nothing to load and no script.

In: a package with a template that fills the blocks of `frame.html`, which lies beside this file, and its values. Out: HTML text;
what came from elsewhere is escaped. What all our pages are, head, policy, fonts and colours by day and night, is said there once.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2

from finetune_training.events import wording


def filled(package: str, name: str, *, title: str, **values: Any) -> str:
    """The page `name` of a package."""
    frame = files(__package__).joinpath("frame.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"frame.html": frame}),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"size": wording.size, "count": wording.count, "duration": wording.duration}
    template = environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8"))
    # A lone surrogate (JSON can hold one) cannot be written to a file.
    return template.render(title=title, **values).encode("utf-8", "replace").decode()
