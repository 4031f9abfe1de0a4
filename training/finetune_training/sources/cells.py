"""A cell's text → the value it spells, and whether a value says anything. Pure.

In: text that should be JSON, or a value. Out: the value; or why it is none, in words for an error that names the place. How
deep a value may be nested is said here once: Python's own limit depends on who asks, and what follows walks values too.
"""

from __future__ import annotations

import json
from typing import Any, Final

DEEPEST: Final = 100
"""No deeper may lists and objects stand in each other."""
_DEEP: Final = f"nested too deeply (more than {DEEPEST} levels)"
_NOTHING: Final = ("", "[]", "{}", "null")


class NotJSON(ValueError):
    """Says why a text is no JSON that can be read."""


def decoded(text: str) -> Any:
    """The value of a JSON text. Raises NotJSON."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise NotJSON(f"{error.msg}, at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise NotJSON(why_not(error)) from None
    # Most rows have fewer brackets than would make them deep, and to count is quick.
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(value):
        raise NotJSON(_DEEP)
    return value


def why_not(error: Exception) -> str:
    """What Python's reader cannot read of good JSON: depth, and numbers as long as a page."""
    return _DEEP if isinstance(error, RecursionError) else "a number has too many figures"


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, no words, JSON of nothing, or what holds nothing but that."""
    if isinstance(value, str):
        return value.strip() in _NOTHING
    if isinstance(value, list | dict):
        return all(is_empty(item) for item in (value.values() if isinstance(value, dict) else value))
    return value is None


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(DEEPEST):
        if not level:
            return False
        items = (item for each in level for item in (each.values() if isinstance(each, dict) else each))
        level = [item for item in items if isinstance(item, list | dict)]
    return bool(level)
