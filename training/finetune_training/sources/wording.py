"""Values → words: what a row holds instead of what it should hold, in errors that a person reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from finetune_training.contract.failure import FinetuneError, data_error


def wrong_type(value: Any, *, column: str, wanted: str, where: str) -> FinetuneError:
    """A Data error: `column` should be something else."""
    return data_error("WrongType", f"{where}: {column} should be {wanted}, but is {kind_of(value)}.", "Mend the row.")


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
