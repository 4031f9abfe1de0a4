"""A conversation → its text, and which part of the text the assistant says. Pure, given a tokenizer.

In: messages and a chat template (Jinja). Out: `Chat`: the text as the model sees it and the spans of the assistant's turns,
each up to and including the token that ends it, so that the model learns to stop. A template that marks these parts with
`{% generation %}` is believed; of any other, prefixes of the conversation are rendered and compared with the whole.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.sources.rows import Message, Messages

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]


@dataclass(frozen=True)
class Chat:
    """`turns`: the assistant's, as character spans of `text`. `prompt`: how much of `text` comes before the first one."""

    text: str
    turns: list[Span]
    prompt: int


def template_of(tokenizer: Any, own: str) -> str:
    """The template to use: the spec's `own`, else the tokenizer's."""
    try:
        template: str = own or tokenizer.get_chat_template()
    except ValueError as error:
        raise user_error(
            "NoChatTemplate",
            "The rows are conversations, and the model's tokenizer has no chat template.",
            "Set spec.dataset.chatTemplate, or use an instruct model.",
            detail=str(error),
        ) from None
    return template


def render_chat(row: Messages, template: str, tokenizer: Any, *, turns: bool) -> Chat:
    """The conversation as text. `turns` False: nobody asks which parts are the assistant's; only the first is sought."""
    if _MARKED.search(template):
        text, marked = _render(row, row.messages, template, tokenizer, marks=True)
        return Chat(text, marked, marked[0][0] if marked else len(text))
    text, _ = _render(row, row.messages, template, tokenizer)
    spans: list[Span] = []
    for place, message in enumerate(row.messages):
        if message["role"] != "assistant":
            continue
        before, _ = _render(row, row.messages[:place], template, tokenizer, asks=True)
        if not turns:
            return Chat(text, [], _common(before, text))
        last = place == len(row.messages) - 1
        through = text if last else _render(row, row.messages[: place + 1], template, tokenizer)[0]
        if not (text.startswith(through) and through.startswith(before)):
            raise _not_by_prefix(row, place, before=before, through=through, text=text)
        spans.append((len(before), _end_of_turn(text, len(before), len(through), tokenizer)))
    return Chat(text, spans, spans[0][0] if spans else len(text))


def _render(
    row: Messages, messages: list[Message], template: str, tokenizer: Any, *, asks: bool = False, marks: bool = False
) -> tuple[str, list[Span]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, spans = render_jinja_template(
            conversations=[messages],
            chat_template=template,
            add_generation_prompt=asks,
            return_assistant_tokens_mask=marks,
            **tokenizer.special_tokens_map,
        )
    except Exception as error:  # whatever a template does is the template's fault, and Jinja raises anything
        raise _failed(error, row) from error
    return texts[0], spans[0] if marks else []


def _failed(error: Exception, row: Messages) -> FinetuneError:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    roles = ", ".join(message["role"] for message in row.messages[:8])
    return user_error(
        "ChatTemplateFailed",
        f"The chat template fails{f' in its line {line}' if line else ''}: {error} "
        f"(rendering {row.where}, whose roles are {roles}).",
        "Mend spec.dataset.chatTemplate, or the roles in the row.",
        detail=f"{type(error).__name__}: {error}",
    )


def _not_by_prefix(row: Messages, place: int, *, before: str, through: str, text: str) -> FinetuneError:
    longest = before if not text.startswith(before) else through
    same = _common(longest, text)
    return user_error(
        "ChatTemplateNotByPrefix",
        f"The chat template writes the beginning of a conversation differently once more follows, so that it cannot be "
        f"told which tokens are the assistant's ({row.where}, message {place}).",
        "Mark the assistant's part with {% generation %} … {% endgeneration %} in spec.dataset.chatTemplate, or keep one "
        "assistant turn in a row, or set spec.dataset.lossOn: All.",
        detail=f"alone: …{longest[max(0, same - 40) : same + 40]!r}\nwhole: …{text[max(0, same - 40) : same + 40]!r}",
    )


def _end_of_turn(text: str, start: int, end: int, tokenizer: Any) -> int:
    """Blanks after the special token that ends a turn belong to the template, not to what the model says."""
    said = text[start:end].rstrip()
    ends = said.endswith(tuple(tokenizer.all_special_tokens) + tuple(tokenizer.get_added_vocab()))
    return start + len(said) if ends else end


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
