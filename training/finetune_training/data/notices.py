"""What is to be said of a run's chat templates before anything is trained. Pure, given a tokenizer.

In: the first rows of the sources, a tokenizer and the options. Out: sentences: which of TRL's templates trains, an end of turn
that the tokenizer does not know, a thought that is begun where rows have none, a date that changes from day to day. Raises a User
error: the template asks for no such argument, or writes no end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_training.chat.habits import habits_of, thoughts_of
from finetune_training.chat.template import Template, asked_by, check_arguments
from finetune_training.contract.failure import user_error
from finetune_training.data.conversations import refuse_endless
from finetune_training.data.dates import date_notice
from finetune_training.data.render import Options, template_for
from finetune_training.sources.rows import Messages, Row

_PIECES = 8


def notices(rows: Sequence[Row], tokenizer: Any, options: Options) -> list[str]:
    """The sentences about the templates that render these rows, each once."""
    conversations = [row for row in rows if isinstance(row, Messages)]
    if options.chat_template_args and not conversations:
        raise user_error(
            "ChatTemplateArgUnknown",
            "spec.dataset.chatTemplateArgs is set, and no row is a conversation: no chat template is used.",
            "Take it out, or set spec.dataset.kind: Messages.",
        )
    said: list[str] = []
    for has_tools in dict.fromkeys(bool(row.tools) for row in conversations):
        rendered = [row for row in conversations if bool(row.tools) is has_tools]
        template = template_for(rendered[0], tokenizer, options)
        check_arguments(template, options.chat_template_args)
        refuse_endless(template, tokenizer)
        said += _of_form(template) + _of_end(template, tokenizer) + _of_thoughts(rendered, template)
        said += next((found for row in rendered if (found := date_notice(row, template))), [])
    return list(dict.fromkeys(said))


def _of_form(template: Template) -> list[str]:
    if not template.source:
        return []
    return [
        f"Rows are rendered with TRL's training form of the chat template ({template.source}), which marks what the assistant "
        "says. The artifact keeps the template itself."
    ]


def _of_thoughts(rows: Sequence[Messages], template: Template) -> list[str]:
    """Asked, the model is within a thought; of rows without one it learns that none is begun."""
    bare = [row for row in rows if not _has_thoughts(row)] if habits_of(template).opens_thoughts else []
    if not bare:
        return []
    if len(bare) < len(rows):
        return [
            f"Asked for an answer, the chat template begins a thought (<think>), and {len(bare):,} of {len(rows):,} rows that "
            f"were looked at have none ({bare[0].where}): from these the model learns to answer without one, and will be asked "
            "within one. Give their assistant's messages a reasoning_content too."
        ]
    switch = "enable_thinking"
    remedy = (
        f"set spec.dataset.chatTemplateArgs: {{{switch}: false}}"
        if switch in asked_by(template.text)
        else "set a spec.dataset.chatTemplate that begins none"
    )
    return [
        "Asked for an answer, the chat template begins a thought (<think>), and rows have none: the model learns to answer "
        f"without one, and will be asked within one. Give the assistant's messages a reasoning_content, or {remedy}."
    ]


def _has_thoughts(row: Messages) -> bool:
    return any(thoughts_of(message)[0] for message in row.messages if message["role"] == "assistant")


def _of_end(template: Template, tokenizer: Any) -> list[str]:
    habits = habits_of(template)
    if habits.follows:
        return [
            f"The chat template ends the assistant's turn with no token of its own: the next role's, {habits.follows!r}, is "
            "learnt as its end."
        ]
    if not habits.tail:
        return []
    pieces = tokenizer.tokenize(habits.tail)
    shown = " ".join(map(repr, pieces[:_PIECES])) + (" …" if len(pieces) > _PIECES else "")
    return [
        f"The chat template ends the assistant's turn with {habits.tail!r}, which is no special token of the tokenizer but "
        f"{len(pieces)} pieces ({shown}): generation will not stop there. Write {tokenizer.eos_token or 'an end token'} "
        "after it in spec.dataset.chatTemplate."
    ]
