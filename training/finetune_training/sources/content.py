"""What a message holds, as each API writes it → what is said and what is thought. Pure.

In: a message with its role and its calls, or the value of a `system` column. Out: content that is text: parts put together, a
refusal in the place of the words that it stands for, a tool's result as the JSON that it is. Thoughts become
`reasoning_content`. What is no text is an error with its place.
"""

from __future__ import annotations

import json
from typing import Any, Final

from finetune_training.chat.habits import REASONING
from finetune_training.chat.template import Message
from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.cells import is_empty, wrong_type

_MEDIA: Final = ("image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "file")
"""Types of parts that are no text."""
_CALLS: Final = ("tool_use", "tool_result", "function_call", "function_call_output")
"""Types of parts that other APIs have for what is a message or a key of one here."""


def with_content(message: Message, *, where: str) -> Message:
    """The message with a text as its content."""
    content = message.get("content")
    if message["role"] == "tool":
        return {**message, "content": _result(content, where=where)}
    if isinstance(content, list | dict):
        message = _put_together(message, content, where=where)
    if not message.get("content") and isinstance(message.get("refusal"), str):
        return {**{key: value for key, value in message.items() if key != "refusal"}, "content": message["refusal"]}
    if message.get("content") is None and any(message.get(key) for key in ("tool_calls", *REASONING)):
        return {**message, "content": ""}
    if not isinstance(message.get("content"), str):
        why = "" if message.get("content") is not None else "no words, no tool_calls, no thoughts, no refusal"
        raise wrong_type(message.get("content"), column="content", wanted="text", where=where, why=why)
    return message


def system_of(value: Any, *, column: str, where: str) -> str:
    """A system prompt beside a conversation: text, parts of it, or a message that has it."""
    if isinstance(value, str):
        return value
    if is_empty(value):
        return ""
    if not says_system(value):
        raise wrong_type(value, column=column, wanted="text", where=where)
    items = value if isinstance(value, list) else [value]
    parts = [item["content"] if isinstance(item, dict) and "content" in item else item for item in items]
    flat = [part for each in parts for part in (each if isinstance(each, list) else [each])]
    return "".join(_part(part, where=f"{where}: {column}")[1] for part in flat)


def says_system(value: Any) -> bool:
    """Whether a value can be a system prompt; a number or a flag is none."""
    if isinstance(value, dict):
        value = value.get("content", value.get("text"))
    return isinstance(value, str) or (isinstance(value, list) and all(says_system(item) for item in value))


def _put_together(message: Message, content: list[Any] | dict[str, Any], *, where: str) -> Message:
    there = [part for part in (content if isinstance(content, list) else [content]) if part is not None]
    parts = [_part(part, where=where) for part in there]
    thoughts = "".join(text for is_thought, text in parts if is_thought)
    said = {**message, "content": "".join(text for is_thought, text in parts if not is_thought)}
    return {"reasoning_content": thoughts, **said} if thoughts else said


def _part(part: Any, *, where: str) -> tuple[bool, str]:
    """Whether it is thought or said (Mistral's and Anthropic's parts tell), and the text."""
    if isinstance(part, str):
        return False, part
    fields = part if isinstance(part, dict) else {}
    said = next((fields[key] for key in ("text", "refusal") if isinstance(fields.get(key), str)), None)
    if said is not None:
        return False, said
    thought = fields.get("thinking")
    if isinstance(thought, str):
        return True, thought
    if isinstance(thought, list):
        return True, "".join(_part(inner, where=where)[1] for inner in thought)
    raise _no_text(fields.get("type"), where=where)


def _no_text(kind: Any, *, where: str) -> FinetuneError:
    shown = f" ({kind})" if isinstance(kind, str) else ""
    remedy = (
        "Write calls as tool_calls, and results as messages of the role tool."
        if kind in _CALLS
        else "Leave the row out: this trains language models only."
    )
    return data_error("WrongType", f"{where}: content has a part that is not text{shown}.", remedy)


def _result(content: Any, *, where: str) -> str:
    """What a tool gives: text, parts of it, or a value, which an API would have been sent as JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    items = content if isinstance(content, list) else [content]
    types = [item.get("type") if isinstance(item, dict) else None for item in items]
    if all(kind == "text" for kind in types) or any(kind in _MEDIA for kind in types):
        return "".join(_part(item, where=where)[1] for item in items)
    return json.dumps(content, ensure_ascii=False)
