"""A cell's text → the value it spells; a value → whether it says anything, and words for it. Pure.

In: text that should be JSON, or a value. Out: the value; or what there is instead of what there should be, in errors that a
person reads. How deep a value may be nested is said here once: Python's own limit depends on who asks, and what follows walks
values too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from finetune_training.contract.failure import FinetuneError, data_error

DEEPEST: Final = 200
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


def spelt(text: str, *, column: str, where: str, wanted: str = "JSON") -> Any:
    """The value that a cell spells as JSON; None for a blank one. Raises a Data error: it should spell what is `wanted`."""
    if not text.strip():
        return None
    try:
        return decoded(text)
    except NotJSON as error:
        raise wrong_type(text, column=column, wanted=wanted, where=where, why=str(error)) from None


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


def wrong_type(value: Any, *, column: str, wanted: str, where: str, why: str = "") -> FinetuneError:
    """A Data error: `column` should be something else. `why`: what of it is wrong, where that is not to be seen."""
    shown = f"{kind_of(value)}{why and f': {why}'}"
    return data_error("WrongType", f"{where}: {column} should be {wanted}, but is {shown}.", "Mend the row.")


def kind_of(value: Any) -> str:
    """What JSON calls a value, and its beginning."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    name = names.get(type(value), "a number")
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return f"{name} ({shown[:60]}{'…' if len(shown) > 60 else ''})"


def listed(columns: Iterable[str]) -> str:
    """Names of columns, quoted; not more than a screen holds."""
    names = [repr(column) for column in columns]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"
