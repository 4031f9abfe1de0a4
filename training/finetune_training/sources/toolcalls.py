"""Tools and calls of them, as each API writes them → as chat templates read them. Pure.

In: the value of a `tools` column, a message's calls. Out: definitions and calls in the form of today's API, with arguments
that are objects: a template writes them as JSON, so a text of JSON would be learnt with its quotes escaped. A key of an object
that holds null is taken out, because a table gives every object the keys of all others; who means null writes the text.
"""

from __future__ import annotations

from typing import Any, Final

from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.cells import NotJSON, decoded, is_empty, kind_of, spelt, wrong_type

_NULL_IS_A_VALUE: Final = ("const", "default", "enum", "examples")
"""Keys of JSON Schema below which null says something."""


def tools_of(value: Any, *, column: str, where: str) -> tuple[dict[str, Any], ...]:
    """The definitions in a column: a list, or one, or JSON text of either; OpenAI's old `functions` and bare ones too."""
    tools = spelt(value, column=column, where=where) if isinstance(value, str) else value
    tools = [tools] if isinstance(tools, dict) else tools
    if is_empty(tools):
        return ()
    if not isinstance(tools, list):
        raise wrong_type(value, column=column, wanted="a list of tools", where=where)
    found = []
    for place, tool in enumerate(tools):
        bare = _unquoted(tool, column=f"{column}[{place}]", where=where)
        if not _is_tool(bare) and not is_empty(bare):
            why = f"{column}[{place}] is no tool with a name"
            raise wrong_type(value, column=column, wanted="a list of tools", where=where, why=why)
        is_text = isinstance(value, str) or isinstance(tool, str)
        found.append(bare if is_text else _without_nulls(bare, keep=_NULL_IS_A_VALUE))
    return tuple(_wrapped(tool) for tool in found if not is_empty(tool))


def _unquoted(tool: Any, *, column: str, where: str) -> Any:
    return spelt(tool, column=column, where=where) if _is_quoted(tool) else tool


def _is_quoted(tool: Any) -> bool:
    return isinstance(tool, str) and tool.lstrip().startswith("{")


def says_tools(value: Any) -> bool:
    """Whether a value means tools, rightly written or not. Names of tools are none: a model is told what each of them takes."""
    try:
        found = decoded(value) if isinstance(value, str) else value
    except NotJSON:
        return "{" in value and value.lstrip().startswith(("[", "{"))
    items = found if isinstance(found, list) else [found]
    return any(_is_tool(item) or _is_quoted(item) for item in items)


def _is_tool(value: Any) -> bool:
    """With a name, its own or its function's; or one of those that a server has, which are known by their type."""
    if not isinstance(value, dict):
        return False
    function = value.get("function")
    named = isinstance(value.get("name"), str) or (isinstance(function, dict) and isinstance(function.get("name"), str))
    return named or (isinstance(value.get("type"), str) and not {"function", "text"} & {*value, value["type"]})


def calls_of(message: dict[str, Any], *, where: str) -> list[dict[str, Any]]:
    """The calls in a message: `tool_calls`, as a list or as JSON text, or the old `function_call`."""
    calls = message.get("tool_calls")
    if isinstance(calls, str):
        calls = spelt(calls, column="tool_calls", where=where)
    if not calls:
        call = message.get("function_call")
        calls = [spelt(call, column="function_call", where=where) if isinstance(call, str) else call]
    if not isinstance(calls, list):
        raise wrong_type(calls, column="tool_calls", wanted="a list of calls", where=where)
    there = ((place, call) for place, call in enumerate(calls) if call != {} and not _is_null(call))
    return [_call(call, where=f"{where}: tool_calls[{place}]") for place, call in there]


def _is_null(call: Any) -> bool:
    """Exports of tables have objects in which all is null."""
    return call is None or (isinstance(call, dict) and bool(call) and all(map(_is_null, call.values())))


def calls_in(value: Any, *, where: str) -> list[dict[str, Any]]:
    """The calls that ShareGPT writes as the words of `function_call`: one, or a list of them, mostly as JSON."""
    calls = spelt(value, column="a call", where=where) if isinstance(value, str) else value
    return [_call(call, where=where) for call in (calls if isinstance(calls, list) else [calls])]


def _call(call: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise _no_call(call, where=where)
    bare = {key: value for key, value in _wrapped(call).items() if value is not None}
    function = bare.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _no_call(call, where=where)
    kept = {key: value for key, value in function.items() if value is not None}
    return {**bare, "function": {**kept, "arguments": _arguments(function.get("arguments"), where=where)}}


def _no_call(call: Any, *, where: str) -> FinetuneError:
    message = f"{where} should be a call with name and arguments, but is {kind_of(call)}."
    return data_error("WrongType", message, 'Write {"function": {"name": …, "arguments": {…}}}.')


def _arguments(value: Any, *, where: str) -> dict[str, Any]:
    found = spelt(value, column="arguments", where=where) if isinstance(value, str) else _without_nulls(value)
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
