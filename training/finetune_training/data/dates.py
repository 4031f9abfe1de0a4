"""Whether a chat template writes today's date, and what it calls it. Pure, given a tokenizer.

In: a row and the template that renders it. Out: a sentence, or nothing. Prepared data is made once and found again under a name
that has no date in it: rows keep the day of their preparation, and whoever asks the model writes another one.
Found by trying: the template is given a day that no calendar has.
"""

from __future__ import annotations

import re
from dataclasses import replace

from finetune_training.chat.habits import habits_of
from finetune_training.chat.template import Template, asked_by
from finetune_training.sources.rows import Messages

_NOW, _DAY, _RULE = "finetunetoday", "finetuneday", "finetunerule"
_TODAY = "{%- macro strftime_now(format) -%}" + _NOW + "{%- endmacro -%}"
"""Takes the place of what the renderer gives to every template."""
_LIKE_A_DATE = re.compile(r"date|today|time", re.IGNORECASE)


def date_notice(row: Messages, template: Template) -> list[str]:
    """What is to be said of the date in the row's text; nothing: none is there that changes from day to day."""
    if "strftime_now" not in template.text or _NOW not in _rendered(row, template):
        return []
    return [
        "The chat template writes today's date into rows. Prepared data keeps the day on which it was prepared, also where a "
        f"later run finds it again. {_remedy(row, template)}"
    ]


def _remedy(row: Messages, template: Template) -> str:
    names = sorted(name for name in asked_by(template.text) if _LIKE_A_DATE.search(name))
    settable = next((name for name in names if _sets(name, row, template)), "")
    if settable:
        return f"Set it by spec.dataset.chatTemplateArgs: {{{settable}: …}}."
    ruled = replace(row, messages=[{"role": "system", "content": _RULE}, *row.messages])
    if _RULE in (text := _rendered(ruled, template)) and _NOW not in text:
        return "It has no argument that sets the date; in rows with a system message it writes none."
    return "It has no argument that sets the date; a spec.dataset.chatTemplate without strftime_now writes none."


def _sets(name: str, row: Messages, template: Template) -> bool:
    text = _rendered(row, template, **{name: _DAY})
    return _DAY in text and _NOW not in text


def _rendered(row: Messages, template: Template, **given: str) -> str:
    names = dict(template.tokens) | given
    tried = replace(
        template, text=_TODAY + template.text, tokens=tuple(sorted(names.items(), key=lambda each: each[0]))
    )
    habits = habits_of(template)
    try:
        return tried.render([habits.given(message) for message in row.messages], tools=row.tools)[0]
    except Exception:  # whatever a template raises is said where the row is rendered
        return ""
