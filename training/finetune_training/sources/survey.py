"""The first rows of a source → what in them nothing uses.

In: rows and their shape. Out: a `Survey`: the columns there are, those that are ignored, and the keys of messages that only a
chat template could use. A column that says how to train, and is dropped, looks like any other; so all are named, once per source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from finetune_training.sources.cells import is_empty, listed
from finetune_training.sources.columns import Shape
from finetune_training.sources.rows import Messages, Row

SURVEYED: Final = 100
"""So many rows of a source are looked at."""
_ALWAYS_USED: Final = ("role", "content", "tool_calls", "tool_call_id")


@dataclass(frozen=True)
class Survey:
    """`source`: where it stands in the spec. `missing`: columns that the spec names and no row has.
    `strange`: columns that are called like one that is used, and what they hold."""

    source: str = ""
    columns: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    strange: tuple[tuple[str, str], ...] = ()

    def unused_keys(self, template: str) -> tuple[str, ...]:
        """The keys of messages that `template` does not name."""
        return tuple(key for key in self.keys if not re.search(rf"\b{re.escape(key)}\b", template))

    @property
    def warnings(self) -> list[str]:
        """What should be said of the columns."""
        ignored = f"{self.source}: nothing uses the columns {listed(self.ignored)}."
        missing = (
            f"{self.source}: no row that was looked at has {listed(self.missing)}, which spec.dataset.columns names."
        )
        advice = [f"{self.source}, column {name!r}: {_ADVICE[name]}." for name in self.ignored if name in _ADVICE]
        strange = [
            f"{self.source}, column {name!r}: {what} is {_NONE[name]}." for name, what in self.strange if name in _NONE
        ]
        return [ignored] * bool(self.ignored) + advice + strange + [missing] * bool(self.missing)

    def key_warnings(self, template: str) -> list[str]:
        """What should be said of the keys of messages when they are rendered by `template`."""
        unused = self.unused_keys(template)
        return [f"{self.source}: the chat template does not use {listed(unused)} of the messages."] if unused else []


_ADVICE: Final = {
    "chat_template_kwargs": "arguments of the chat template are the same for all rows: set them in "
    "spec.dataset.chatTemplateArgs, and give rows that want others a run of their own",
}
"""Columns that other tools read, and what takes their place."""
_NO_TOOLS: Final = (
    "no definition of tools, and the model is told of none; spec.dataset.columns.tools names another column"
)
_NONE: Final = {
    "system": "no system prompt; spec.dataset.columns.system names another column",
    "history": "no list of earlier turns",
    "tools": _NO_TOOLS,
    "functions": _NO_TOOLS,
}
"""What a column is not that is only called so."""
UNSURVEYED: Final = Survey()
"""Of files whose rows are all kept as they are."""


def survey(
    rows: Iterable[tuple[dict[str, Any], Row | None]], shape: Shape, *, source: str, named: Iterable[str]
) -> Survey:
    """`rows`: the columns and what became of them. `named`: columns that the spec names and that need not be there."""
    columns: dict[str, None] = {}
    keys: dict[str, None] = {}
    used = set(shape.columns)
    for row, converted in rows:
        columns.update(dict.fromkeys(row))
        if isinstance(converted, Messages):
            used.update(shape.beside)
            keys.update(
                dict.fromkeys(
                    key for message in converted.messages for key, value in message.items() if not is_empty(value)
                )
            )
    return Survey(
        source=source,
        columns=tuple(columns),
        ignored=tuple(column for column in columns if column not in used),
        keys=tuple(key for key in keys if key not in _ALWAYS_USED),
        strange=shape.strange,
        missing=tuple(name for name in named if name and name not in columns),
    )
