"""A chat template's text → another: its training form, or with arguments in it. Pure.

In: Jinja, and the spec's arguments. Out: Jinja. Arguments become part of the text, so that the artifact behaves as the run
did, in any program. TRL's training forms are read from its files, and TRL is not imported: that would import torch into
every task of data preparation.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

Template = str | Mapping[str, str] | None
"""As a tokenizer has it: one, several by their names, or none."""


@lru_cache(maxsize=1)
def training_forms() -> dict[str, tuple[str, str]]:
    """The text of each template that TRL has a training form of → its name there, and that form."""
    found = importlib.util.find_spec("trl")
    folders = [Path(place) / "chat_templates" for place in (found and found.submodule_search_locations) or ()]
    forms = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*_training.jinja"))):
        name = path.name.removesuffix("_training.jinja")
        original = path.with_name(f"{name}.jinja")
        if original.exists():
            forms[original.read_text(encoding="utf-8")] = (name, path.read_text(encoding="utf-8"))
    return forms


def chosen(base: Template, own: str, arguments: Mapping[str, Any]) -> Template:
    """The run's template: its `own`, else the base model's, with the arguments in it."""
    if not own and isinstance(base, Mapping):
        return {name: with_arguments(each, arguments) for name, each in base.items()}
    text = own or base
    return with_arguments(text, arguments) if isinstance(text, str) else text


def with_arguments(template: str, arguments: Mapping[str, Any]) -> str:
    """The template with default values for what it asks. Whoever renders it may still say otherwise."""
    defaults = (
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in arguments.items()
    )
    return "".join(defaults) + template


def _literal(value: Any) -> str:
    """JSON's value as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        escapes = {ord("\\"): "\\\\", ord("'"): "\\'", ord("\n"): "\\n", ord("\r"): "\\r"}
        return f"'{value.translate(escapes)}'"
    names = {None: "none", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else repr(value)
