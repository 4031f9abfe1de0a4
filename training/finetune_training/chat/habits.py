"""What a chat template does with what it is given, found by trying it. Pure.

In: a `Template`. Out: its `Habits`: whether content is text or a list of parts, in which form it takes a model's thoughts,
how it begins the assistant's turn and what ends it. Found once per template, with words that no template changes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from finetune_training.chat.calls import Calls, as_text, calls_of
from finetune_training.chat.template import HIDDEN, Message, Template, template_of
from finetune_training.chat.trial import ANSWER, NEXT, QUESTION, THOUGHT, as_parts, assistant, tried, user

_THOUGHTS = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
_OPENED = re.compile(r"<think>\s*(</think>\s*)?$")
_OPEN = re.compile(r"<think>\s*$")
REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys of a message that hold what the model thought before it spoke."""


class Thoughts(StrEnum):
    """The form in which a template renders thoughts."""

    AS_WRITTEN = "as written"
    FIELD = "reasoning_content"
    INLINE = "<think> in content"
    HIDDEN = "<think> in content, which the template must not see: it would take it out"


@dataclass(frozen=True)
class Habits:
    """`asks` begins the user's turn, `header` the assistant's. `end`: the special token after its words; `follows`: where there
    is none, the special token that the next turn begins with; `after`: all that follows its words where a text ends there.
    `lead`: what the template writes between the prompt and the words. `known`: a question and an answer are rendered at all."""

    parts: bool = False
    thoughts: Thoughts = Thoughts.AS_WRITTEN
    asks: str = ""
    header: str = ""
    end: str = ""
    follows: str = ""
    after: str = ""
    calls: Calls = field(default_factory=Calls)
    lead: str = ""
    known: bool = True

    @property
    def headers(self) -> tuple[str, ...]:
        """The header, and the header of a turn without thoughts, where the prompt opens some."""
        return tuple(dict.fromkeys((self.header, _OPENED.sub("", self.header))))

    @property
    def tail(self) -> str:
        """The text after the assistant's words, where no special token ends its turn."""
        return "" if self.end or self.follows else self.after.strip()

    @property
    def ends(self) -> set[str]:
        """The special tokens after the assistant's words and calls."""
        return {self.end, self.follows, self.calls.end} - {""}

    @property
    def opens_thoughts(self) -> bool:
        """Whether the prompt begins a thought and leaves it to the model to end it."""
        return bool(_OPEN.search(self.header))

    def given(self, message: Message) -> Message:
        """The message in the form that the template takes."""
        if message.get("role") == "assistant":
            message = _with_thoughts(message, self.thoughts)
        if self.calls.as_text and message.get("tool_calls"):
            message = message | {"tool_calls": [as_text(call) for call in message["tool_calls"]]}
        content = message.get("content")
        return message | {"content": as_parts(content)} if self.parts and isinstance(content, str) else message


@lru_cache(maxsize=64)
def habits_of(template: Template) -> Habits:
    """The template's habits; `known` False: it does not render one question and one answer."""
    for parts in (False, True):
        text = tried(template, parts, user(QUESTION), assistant(ANSWER))
        if ANSWER in text:
            break
    else:
        return Habits(known=False)
    after = text.rpartition(ANSWER)[2]
    end = template.special_at(after)
    more = tried(template, parts, user(QUESTION), assistant(ANSWER), user(NEXT))
    follows = "" if end else template.special_at(more.partition(ANSWER)[2])
    header = _header(template, parts)
    between = more.partition(ANSWER)[2].partition(NEXT)[0]
    return Habits(
        parts=parts,
        thoughts=_thoughts(template, parts, header),
        asks=between.lstrip().removeprefix(end).lstrip() or between.strip(),
        header=header,
        end=end,
        follows=follows,
        after=after,
        calls=calls_of(template, parts=parts, header=header),
        lead=_lead(template, parts, text),
    )


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that ends the assistant's turn in the tokenizer's chat template: its own, or where it has none, the
    next role's, which training learns as the end; None: there is none."""
    if not tokenizer.chat_template:
        return None
    habits = habits_of(template_of(tokenizer, training=False))
    token = habits.end or habits.follows
    return int(tokenizer.convert_tokens_to_ids(token)) if token else None


def ends_of_turns(tokenizer: Any) -> list[int]:
    """All special tokens that end the assistant's turns: what it says, and what it calls."""
    if not tokenizer.chat_template:
        return []
    said = habits_of(template_of(tokenizer, training=False)).calls.end
    call = int(tokenizer.convert_tokens_to_ids(said)) if said else None
    return sorted({end for end in (end_of_turn(tokenizer), call) if end is not None})


def asked_in(prompt: str, template: Template) -> str:
    """The user's words in a rendered prompt, or in its beginning: those of the last turn that asks."""
    habits = habits_of(template)
    words = prompt.rpartition(habits.asks)[2] if habits.asks else prompt
    words = words.removesuffix(tried(template, habits.parts, user(QUESTION), asks=True).partition(QUESTION)[2])
    for token in template.special:
        words = words.partition(token)[0]
    return words.strip()


def thoughts_of(message: Message) -> tuple[str, str]:
    """What the model thought and what it said; either may be empty."""
    content = message.get("content")
    content = content if isinstance(content, str) else ""
    inline = _THOUGHTS.fullmatch(content)
    field = next((message[key] for key in REASONING if isinstance(message.get(key), str) and message[key]), "")
    return (field or inline[1], inline[2]) if inline else (field, content)


def common(one: str, other: str) -> int:
    """How many characters both begin with."""
    ends = range(min(len(one), len(other)) + 1)
    return bisect_left(ends, True, key=lambda end: one[:end] != other[:end]) - 1


def _with_thoughts(message: Message, form: Thoughts) -> Message:
    thought, said = thoughts_of(message)
    if form is Thoughts.AS_WRITTEN or not thought:
        return message
    rest = {key: value for key, value in message.items() if key not in REASONING}
    if form is Thoughts.FIELD:
        return rest | {"content": said, "reasoning_content": thought.strip()}
    opened, closed = ("<think>", "</think>") if form is Thoughts.INLINE else HIDDEN
    return rest | {"content": f"{opened}\n{thought.strip()}\n{closed}\n\n{said}"}


def _thoughts(template: Template, parts: bool, header: str) -> Thoughts:
    field = tried(template, parts, user(QUESTION), assistant(ANSWER, reasoning_content=THOUGHT))
    inline = tried(template, parts, user(QUESTION), assistant(f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"))
    if THOUGHT in field:
        return Thoughts.AS_WRITTEN if "".join(field.split()) == "".join(inline.split()) else Thoughts.FIELD
    if THOUGHT in inline:
        return Thoughts.INLINE if "</think>" in template.text or "<think>" in header else Thoughts.AS_WRITTEN
    return Thoughts.HIDDEN if _OPENED.search(header) and not template.marked else Thoughts.AS_WRITTEN


def _lead(template: Template, parts: bool, text: str) -> str:
    asked = tried(template, parts, user(QUESTION), asks=True)
    return text.removeprefix(asked).partition(ANSWER)[0] if asked and text.startswith(asked) else ""


def _header(template: Template, parts: bool) -> str:
    asked, stated = tried(template, parts, user(QUESTION), asks=True), tried(template, parts, user(QUESTION))
    cut = common(asked, stated)
    opening = asked.rfind("<", 0, cut)
    # Two different tokens may begin alike.
    return asked[opening if opening >= 0 and ">" not in asked[opening:cut] else cut :]
