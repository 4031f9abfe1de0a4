"""A chat template tried with messages that nobody has: what it does is seen in what it writes. Pure.

In: a `Template` and messages of words that no template changes. Out: the text, or none where the template raises.
"""

from __future__ import annotations

from typing import Any

from finetune_training.chat.template import Message, Template

QUESTION, ANSWER, THOUGHT, NEXT = "finetunequestion", "finetuneanswer", "finetunethought", "finetunenext"


def tried(template: Template, parts: bool, *messages: Message, asks: bool = False) -> str:
    """`parts`: content is given as a list of parts."""
    given = [message | {"content": as_parts(message["content"])} if parts else message for message in messages]
    try:
        return template.render(given, asks=asks)[0]
    except Exception:  # whatever a template raises: that is a habit too, and said where a row meets it
        return ""


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}


def as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
