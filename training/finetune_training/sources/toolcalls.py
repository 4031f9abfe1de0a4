"""Tools and calls of them, as each API writes them → as chat templates read them. Pure.

In: the value of a `tools` column, a message's calls. Out: definitions and calls in the form of today's API, with arguments
that are objects: a template writes them as JSON, so a text of JSON would be learnt with its quotes escaped. A key of an object
that holds null is taken out, because a table gives every object the keys of all others; who means null writes the text.
"""

from __future__ import annotations

import json
from typing import Any, Final

from finetune_training.contract.failure import data_error
from finetune_training.sources.wording import kind_of, wrong_type

_NULL_IS_A_VALUE: Final = ("const", "default", "enum", "examples")
"""Keys of JSON Schema below which null says something."""


def tools_of(value: Any, *, column: str, where: str) -> tuple[dict[str, Any], ...]:
    """The definitions in a column: a list, or one, or JSON text of either; OpenAI's old `functions` and bare ones too."""
    tools = _parsed(value, column=column, where=where) if isinstance(value, str) else value
    tools = [tools] if isinstance(tools, dict) else tools or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise wrong_type(value, column=column, wanted="a list of tools", where=where)
    found = tools if isinstance(value, str) else [_without_nulls(tool, keep=_NULL_IS_A_VALUE) for tool in tools]
    return tuple(_wrapped(tool) for tool in found)


def calls_of(message: dict[str, Any], *, where: str) -> list[dict[str, Any]]:
    """The calls in a message: `tool_calls`, as a list or as JSON text, or the old `function_call`."""
    calls = message.get("tool_calls")
    if isinstance(calls, str):
        calls = _parsed(calls, column="tool_calls", where=where)
    if not calls and message.get("function_call"):
        calls = [message["function_call"]]
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise wrong_type(calls, column="tool_calls", wanted="a list of calls", where=where)
    return [_call(call, where=f"{where}: tool_calls[{place}]") for place, call in enumerate(calls)]


def calls_in_text(text: str, *, where: str) -> list[dict[str, Any]]:
    """The calls that ShareGPT writes as the words of `function_call`: JSON of one, or of a list of them."""
    calls = _parsed(text, column="a call", where=where)
    return [_call(call, where=where) for call in (calls if isinstance(calls, list) else [calls])]


def _call(call: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise data_error("WrongType", f"{where} should be a call with name and arguments, but is {kind_of(call)}.")
    bare = {key: value for key, value in _wrapped(call).items() if value is not None}
    function = bare.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise data_error("WrongType", f"{where} should be a call with name and arguments, but is {kind_of(call)}.")
    kept = {key: value for key, value in function.items() if value is not None}
    return {**bare, "function": {**kept, "arguments": _arguments(function.get("arguments"), where=where)}}


def _arguments(value: Any, *, where: str) -> dict[str, Any]:
    found = _parsed(value, column="arguments", where=where) if isinstance(value, str) else _without_nulls(value)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise wrong_type(value, column="arguments", wanted="an object", where=where)
    return found


def _wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    """A function alone in the envelope that templates open."""
    return tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}


def _without_nulls(value: Any, *, keep: tuple[str, ...] = ()) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item, keep=keep) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item if key in keep else _without_nulls(item, keep=keep)
        for key, item in value.items()
        if item is not None or key in keep
    }


def _parsed(text: str, *, column: str, where: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise wrong_type(text, column=column, wanted="JSON", where=where) from None
