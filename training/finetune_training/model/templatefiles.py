"""Chat templates ↔ the files of a model's folder that hold them.

In: a run's templates, one or several by their names, and the base's files. Out: the files in which transformers 4.57 and 5, vLLM
and llama.cpp's converter look. Files go before what `tokenizer_config.json` says, so a template that changed must not leave
an old file behind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from finetune_training.chat.forms import Template
from finetune_training.model.modelfiles import TEMPLATE, TEMPLATES, is_template

_KEY: Final = "chat_template"
_DEFAULT: Final = "default"
_NAME = re.compile(r"\w[\w.-]*")


def write_templates(folder: Path, template: Template, bases: Collection[str]) -> None:
    """The run's templates, where they are not the base's, whose files are called `bases`: several are files where the base has
    some, else `in_settings` has them all."""
    if isinstance(template, str):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    elif isinstance(template, Mapping) and _are_files(template, bases):
        for name, text in template.items():
            path = folder / (TEMPLATE if name == _DEFAULT else f"{TEMPLATES}/{name}.jinja")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


def in_settings(settings: dict[str, Any], template: Template, bases: Collection[str]) -> dict[str, Any]:
    """`tokenizer_config.json` with the run's templates, where the base has them there: some readers know only this place."""
    if isinstance(template, str) and _KEY in settings:
        return settings | {_KEY: template}
    if isinstance(template, Mapping) and (_KEY in settings or not _are_files(template, bases)):
        return settings | {_KEY: [{"name": name, "template": text} for name, text in template.items()]}
    return settings


def _are_files(template: Mapping[str, str], bases: Collection[str]) -> bool:
    return any(map(is_template, bases)) and all(_NAME.fullmatch(name) for name in template)
