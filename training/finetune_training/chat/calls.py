"""How a chat template writes the assistant's calls of tools, found by trying it. Pure.

In: a `Template`. Out: its `Calls`: what a call begins with, what ends it, and in which form it wants the arguments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune_training.chat.template import Message, Template
from finetune_training.chat.trial import NEXT, QUESTION, assistant, tried, user

_CALLED = "finetunecall"
_CALL: dict[str, Any] = {
    "type": "function",
    "id": "finetune1",
    "function": {"name": _CALLED, "arguments": {"finetune": "argument"}},
}
_RESULT: Message = {"role": "tool", "name": _CALLED, "tool_call_id": _CALL["id"], "content": NEXT}


@dataclass(frozen=True)
class Calls:
    """`written`: they are, in some form. `as_text`: their arguments are wanted as JSON. `lead`: what comes between the prompt
    and a tool's name. `end`: the special token after a call. `resumes`: asked after a result, the template begins a turn."""

    written: bool = False
    as_text: bool = False
    lead: str = ""
    end: str = ""
    resumes: bool = True


def calls_of(template: Template, *, parts: bool, header: str) -> Calls:
    """`header`: what begins the assistant's turn."""
    asked = user(QUESTION)
    forms = [assistant("", tool_calls=[call]) for call in (_CALL, as_text(_CALL))]
    texts = [tried(template, parts, asked, form) for form in forms]
    wants_text = _CALLED not in texts[0] and _CALLED in texts[1]
    call, alone = forms[wants_text], texts[wants_text]
    resumes = not header or tried(template, parts, asked, call, _RESULT, asks=True).endswith(header)
    if _CALLED not in alone:
        return Calls(resumes=resumes)
    prompt = tried(template, parts, asked, asks=True)
    return Calls(
        written=True,
        as_text=wants_text,
        lead=alone.removeprefix(prompt).partition(_CALLED)[0] if prompt and alone.startswith(prompt) else "",
        end=_end(template, alone.rstrip(), tried(template, parts, asked, call, _RESULT)),
        resumes=resumes,
    )


def as_text(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments as JSON."""
    function = call.get("function", call)
    if not isinstance(function.get("arguments"), dict):
        return call
    written = function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return call | {"function": written} if "function" in call else written


def _end(template: Template, said: str, more: str) -> str:
    """The special token after a call: its turn's own, or the one that its result begins with."""
    rest = more.removeprefix(said) if more.startswith(said) else ""
    return template.special_before(said) or template.special_at(rest)
