"""A conversation → its text, and which parts of the text are learnt. Pure.

In: a row's messages and a `Template`. Out: `Chat`: the text as the model sees it, the spans that are learnt (the assistant's
turns, each up to and including the token that ends it, so that the model learns to stop), and what of the row the text
does not hold. A turn that would be learnt without its tool calls or its words is refused: it would teach an empty answer.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from finetune_training.chat.habits import common, habits_of, thoughts_of
from finetune_training.chat.template import Message, Span, Template
from finetune_training.contract.dataset import LossOn
from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.data.spans import find_turns
from finetune_training.data.turns import Conversation, with_end
from finetune_training.sources.rows import Messages

_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class Chat:
    """`turns`: what is learnt, as character spans of `text`. `prompt`: how much of `text` comes before the assistant's
    first turn. `lost`: what of the row the template leaves out."""

    text: str
    turns: list[Span]
    prompt: int
    lost: tuple[str, ...] = ()


def render_chat(row: Messages, template: Template, *, loss_on: LossOn) -> Chat:
    """The conversation as text. Raises a User error: the template fails, or it cannot be told what is learnt."""
    try:
        habits = habits_of(template)
        messages = tuple(habits.given(message) for message in row.messages)
        conversation = Conversation(messages, tuple(row.tools), template, habits)
        text, found = _turns(row, conversation, _sought(row, conversation, loss_on))
        prompt = _prompt(conversation, text, found)
    except FinetuneError:
        raise
    except Exception as error:  # whatever a template does is the template's fault, and Jinja raises anything
        raise _failed(error, row) from error
    text, found = _ended(text, found, conversation)
    lost = _lost(row, text, found, template)
    return Chat(text, _learnt(row, text, found, loss_on), prompt, lost)


def refuse_endless(template: Template, tokenizer: Any) -> None:
    """Raises a User error: nothing at all comes after the assistant's words, so that nobody could know where they end."""
    habits = habits_of(template)
    if habits.known and not (habits.end or habits.follows or habits.tail):
        raise user_error(
            "NoEndOfTurn",
            "The chat template writes nothing after the assistant's words: a model that learns from it never stops.",
            f"Write {tokenizer.eos_token or 'an end token'} ({{{{ eos_token }}}}) after the assistant's content in "
            "spec.dataset.chatTemplate.",
        )


def _sought(row: Messages, conversation: Conversation, loss_on: LossOn) -> list[int]:
    """The turns whose place must be known."""
    if loss_on is LossOn.ALL:
        return sorted(row.unlearnt & set(conversation.assistants))
    turns = conversation.assistants[-1:] if loss_on is LossOn.COMPLETION else conversation.assistants
    return [place for place in turns if place not in row.unlearnt]


def _turns(row: Messages, conversation: Conversation, sought: list[int]) -> tuple[str, dict[int, Span]]:
    """The text, and the spans of the messages that are sought."""
    if conversation.template.marked:
        text, marks = conversation.marked()
        if len(marks) == len(conversation.assistants):
            found = dict(zip(conversation.assistants, marks, strict=True))
            return text, {place: found[place] for place in sought}
        if sought == conversation.assistants[-1:] and marks:
            return text, {sought[0]: marks[-1]}
    text = conversation.text()
    spans = find_turns(conversation, sought, text)
    missing = next((place for place, span in spans.items() if span is None), None)
    if missing is not None:
        raise _not_found(row, missing, conversation, text)
    return text, {place: span for place, span in spans.items() if span is not None}


def _ended(text: str, found: dict[int, Span], conversation: Conversation) -> tuple[str, dict[int, Span]]:
    """The last turn gets the next role's token where that is what ends a turn: nothing follows it that would have one."""
    template, follows = conversation.template, conversation.habits.follows
    if follows and conversation.messages[-1:] and conversation.messages[-1]["role"] == "assistant":
        text = text if template.ends(text) else text + follows
    ends = {place: "" if conversation.messages[place].get("tool_calls") else conversation.habits.end for place in found}
    return text, {place: with_end(text, span, template, end=ends[place]) for place, span in found.items()}


def _learnt(row: Messages, text: str, found: dict[int, Span], loss_on: LossOn) -> list[Span]:
    if loss_on is not LossOn.ALL:
        return sorted(found.values())
    borders = [0, *(border for span in sorted(found.values()) for border in span), len(text)]
    return [span for span in list(pairwise(borders))[::2] if span[0] < span[1]]


def _prompt(conversation: Conversation, text: str, found: dict[int, Span]) -> int:
    """How much of the text asks for the assistant's first turn."""
    if not conversation.assistants:
        return len(text)
    first = conversation.assistants[0]
    return found[first][0] if first in found else common(conversation.text(first, asks=True), text)


def _lost(row: Messages, text: str, found: dict[int, Span], template: Template) -> tuple[str, ...]:
    """What of the row is not in the text, in a few words each."""
    lost = ["the tools"] if row.tools and not re.search(r"\btools\b", template.text) else []
    for place, message in enumerate(row.messages):
        said = text[slice(*found[place])] if place in found else text
        thought, words = thoughts_of(message)
        if place in found and place not in row.unlearnt:
            _refuse_empty(row, place, said, template)
        if _uncalled(message, said):  # of a turn that is not learnt, or it were refused
            lost.append("tool calls")
        if not _holds(said, thought):
            lost.append("the assistant's thoughts")
        if not _holds(said, words):
            lost.append("words beside a tool call" if message.get("tool_calls") else f"messages of {message['role']}")
    return tuple(dict.fromkeys(lost))


def _refuse_empty(row: Messages, place: int, said: str, template: Template) -> None:
    message = row.messages[place]
    for missing in _uncalled(message, said):
        raise user_error(
            "ToolCallNotRendered",
            f"{row.where}, message {place}: the chat template does not write the assistant's call of {missing!r}; "
            "the model would learn an answer without it.",
            "Use a model whose template renders tool_calls, or a spec.dataset.chatTemplate that does, or write the call "
            "into content, or leave the row out.",
            detail=f"rendered: {said[:200]!r}",
        )
    spoken = said
    for token in template.special:
        spoken = spoken.replace(token, "")
    words = thoughts_of(message)[1].strip()  # which may be a special token: a label
    if words and not spoken.strip() and words not in said:
        raise user_error(
            "AnswerNotRendered",
            f"{row.where}, message {place}: the chat template leaves out what the assistant says; the model would learn an "
            "empty answer.",
            "Mend spec.dataset.chatTemplate: it should write message['content'] of the assistant.",
            detail=f"rendered: {said[:200]!r}",
        )


def _uncalled(message: Message, said: str) -> list[str]:
    """The tools that the message calls and the text does not name."""
    names = [str(call.get("function", call).get("name", "")) for call in message.get("tool_calls") or ()]
    return [name for name in names if name not in said]


def _holds(text: str, words: str) -> bool:
    """Whether the text holds the longest of the words: templates may strip, wrap or quote the rest."""
    longest = max(_WORD.findall(words), key=len, default="")
    return longest in text


def _failed(error: Exception, row: Messages) -> FinetuneError:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    roles = ", ".join(_role(message) for message in row.messages[:8])
    return user_error(
        "ChatTemplateFailed",
        f"The chat template fails{f' in its line {line}' if line else ''}: {error} "
        f"(rendering {row.where}, whose roles are {roles}).",
        "Mend spec.dataset.chatTemplate, or the roles in the row.",
        detail=f"{type(error).__name__}: {error}",
    )


def _role(message: Message) -> str:
    return f"{message['role']} (with tool_calls)" if message.get("tool_calls") else str(message["role"])


def _not_found(row: Messages, place: int, conversation: Conversation, text: str) -> FinetuneError:
    before = conversation.tried(place, asks=True) or ""
    same = common(before, text)
    return user_error(
        "ChatTemplateNotByPrefix",
        f"The chat template writes a conversation in such a way that it cannot be told which tokens are the assistant's "
        f"({row.where}, message {place}): its beginning changes once more follows, and its words are not there once.",
        "Mark the assistant's part with {% generation %} … {% endgeneration %} in spec.dataset.chatTemplate, or set "
        "spec.dataset.lossOn: Completion, which needs the last turn only, or All.",
        detail=f"alone: …{before[max(0, same - 40) : same + 40]!r}\nwhole: …{text[max(0, same - 40) : same + 40]!r}",
    )
