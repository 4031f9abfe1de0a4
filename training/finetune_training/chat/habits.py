"""What a chat template does with what it is given, found by trying it. Pure.

In: a `Template`. Out: its `Habits`: whether content is text or a list of parts, in which form it takes a model's thoughts,
how it begins the assistant's turn and what ends it. Found once per template, with words that no template changes.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from finetune_training.chat.template import HIDDEN, Message, Template, template_of

_QUESTION, _ANSWER, _THOUGHT, _NEXT = "finetunequestion", "finetuneanswer", "finetunethought", "finetunenext"
_THOUGHTS = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
_OPENED = re.compile(r"<think>\s*(</think>\s*)?$")
_OPEN = re.compile(r"<think>\s*$")
_CALLED = "finetunecall"
_CALL: dict[str, Any] = {
    "type": "function",
    "id": "finetune1",
    "function": {"name": _CALLED, "arguments": {"finetune": "argument"}},
}
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
    is none, the special token that the next turn begins with; `tail`: where there is neither, the text after its words.
    `call_end`: the special token after a tool's call. `lead`: what the template writes between the prompt and the words.
    `arguments_as_text`: those of tool calls are wanted as JSON. `known`: a question and an answer are rendered at all."""

    parts: bool = False
    thoughts: Thoughts = Thoughts.AS_WRITTEN
    asks: str = ""
    header: str = ""
    end: str = ""
    follows: str = ""
    tail: str = ""
    call_end: str = ""
    lead: str = ""
    arguments_as_text: bool = False
    known: bool = True

    @property
    def headers(self) -> tuple[str, ...]:
        """The header, and the header of a turn without thoughts, where the prompt opens some."""
        return tuple(dict.fromkeys((self.header, _OPENED.sub("", self.header))))

    @property
    def opens_thoughts(self) -> bool:
        """Whether the prompt begins a thought and leaves it to the model to end it."""
        return bool(_OPEN.search(self.header))

    def given(self, message: Message) -> Message:
        """The message in the form that the template takes."""
        if message.get("role") == "assistant":
            message = _with_thoughts(message, self.thoughts)
        if self.arguments_as_text and message.get("tool_calls"):
            message = message | {"tool_calls": [_as_text(call) for call in message["tool_calls"]]}
        content = message.get("content")
        return message | {"content": _parts(content)} if self.parts and isinstance(content, str) else message


@lru_cache(maxsize=64)
def habits_of(template: Template) -> Habits:
    """The template's habits; `known` False: it does not render one question and one answer."""
    for parts in (False, True):
        text = _tried(template, parts, _user(_QUESTION), _assistant(_ANSWER))
        if _ANSWER in text:
            break
    else:
        return Habits(known=False)
    after = text.rpartition(_ANSWER)[2]
    end = template.special_at(after)
    more = _tried(template, parts, _user(_QUESTION), _assistant(_ANSWER), _user(_NEXT))
    follows = "" if end else template.special_at(more.partition(_ANSWER)[2])
    header = _header(template, parts)
    between = more.partition(_ANSWER)[2].partition(_NEXT)[0]
    wants_text = _wants_text(template, parts)
    return Habits(
        parts=parts,
        thoughts=_thoughts(template, parts, header),
        asks=between.lstrip().removeprefix(end).lstrip() or between.strip(),
        header=header,
        end=end,
        follows=follows,
        tail="" if end or follows else after.strip(),
        call_end=_call_end(template, parts, as_text=wants_text),
        lead=_lead(template, parts, text),
        arguments_as_text=wants_text,
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
    said = habits_of(template_of(tokenizer, training=False)).call_end
    call = int(tokenizer.convert_tokens_to_ids(said)) if said else None
    return sorted({end for end in (end_of_turn(tokenizer), call) if end is not None})


def asked_in(prompt: str, template: Template) -> str:
    """The user's words in a rendered prompt, or in its beginning: those of the last turn that asks."""
    habits = habits_of(template)
    words = prompt.rpartition(habits.asks)[2] if habits.asks else prompt
    words = words.removesuffix(_tried(template, habits.parts, _user(_QUESTION), asks=True).partition(_QUESTION)[2])
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
    field = _tried(template, parts, _user(_QUESTION), _assistant(_ANSWER, reasoning_content=_THOUGHT))
    inline = _tried(template, parts, _user(_QUESTION), _assistant(f"<think>\n{_THOUGHT}\n</think>\n\n{_ANSWER}"))
    if _THOUGHT in field:
        return Thoughts.AS_WRITTEN if "".join(field.split()) == "".join(inline.split()) else Thoughts.FIELD
    if _THOUGHT in inline:
        return Thoughts.INLINE if "</think>" in template.text or "<think>" in header else Thoughts.AS_WRITTEN
    return Thoughts.HIDDEN if _OPENED.search(header) and not template.marked else Thoughts.AS_WRITTEN


def _wants_text(template: Template, parts: bool) -> bool:
    """Whether the template fails on arguments that are an object, as most want them, and not on JSON."""
    texts = [
        _tried(template, parts, _user(_QUESTION), _assistant("", tool_calls=[call]))
        for call in (_CALL, _as_text(_CALL))
    ]
    return _CALLED not in texts[0] and _CALLED in texts[1]


def _call_end(template: Template, parts: bool, *, as_text: bool) -> str:
    """The special token after a call: its turn's own, or the one that its result begins with."""
    call = _assistant("", tool_calls=[_as_text(_CALL) if as_text else _CALL])
    result = {"role": "tool", "name": _CALLED, "tool_call_id": _CALL["id"], "content": _NEXT}
    alone = _tried(template, parts, _user(_QUESTION), call)
    if _CALLED not in alone:
        return ""
    said = alone.rstrip()
    more = _tried(template, parts, _user(_QUESTION), call, result)
    return template.special_before(said) or template.special_at(
        more.removeprefix(said) if more.startswith(said) else ""
    )


def _lead(template: Template, parts: bool, text: str) -> str:
    asked = _tried(template, parts, _user(_QUESTION), asks=True)
    return text.removeprefix(asked).partition(_ANSWER)[0] if asked and text.startswith(asked) else ""


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function.get("arguments"), dict):
        return call
    written = function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return call | {"function": written} if "function" in call else written


def _header(template: Template, parts: bool) -> str:
    asked, stated = _tried(template, parts, _user(_QUESTION), asks=True), _tried(template, parts, _user(_QUESTION))
    cut = common(asked, stated)
    opening = asked.rfind("<", 0, cut)
    # Two different tokens may begin alike.
    return asked[opening if opening >= 0 and ">" not in asked[opening:cut] else cut :]


def _tried(template: Template, parts: bool, *messages: Message, asks: bool = False) -> str:
    given = [message | {"content": _parts(message["content"])} if parts else message for message in messages]
    try:
        return template.render(given, asks=asks)[0]
    except Exception:  # whatever a template raises: that is a habit too, and said where a row meets it
        return ""


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
