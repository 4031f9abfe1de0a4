"""No null that a table has added is learnt; a null that somebody wrote is kept where it says something."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_training.sources.toolcalls import calls_of, tools_of


def _arguments(arguments: Any) -> Any:
    call = {"id": None, "type": "function", "function": {"name": "f", "arguments": arguments, "strict": None}}
    return calls_of({"tool_calls": [call]}, where="f:1")[0]["function"]["arguments"]


@pytest.mark.parametrize(
    ("written", "learnt"),
    [
        (
            {"x": 1, "y": None, "z": {"a": None, "b": [{"c": None, "d": 2}, None]}},
            {"x": 1, "z": {"b": [{"d": 2}, None]}},
        ),
        ('{"x": null, "y": {"z": null}}', {"x": None, "y": {"z": None}}),
        ("", {}),
        ("null", {}),
        (None, {}),
        ({}, {}),
    ],
)
def test_arguments_are_what_the_row_had(written: Any, learnt: Any) -> None:
    assert _arguments(written) == learnt


def test_a_call_has_no_key_that_holds_nothing() -> None:
    function: dict[str, Any] = {"name": "f", "arguments": {}, "strict": None}
    call = {"id": None, "type": "function", "function": function}
    assert calls_of({"tool_calls": [call]}, where="f:1") == [
        {"type": "function", "function": {"name": "f", "arguments": {}}}
    ]


def test_definitions_lose_the_parameters_of_others_and_keep_the_nulls_of_schemas() -> None:
    kept = {"type": "string", "default": None, "enum": ["a", None]}
    schema = {"type": "object", "properties": {"a": kept, "b": None}, "required": None}
    bare = {"type": "object", "properties": {"a": kept}}
    assert tools_of([{"name": "f", "parameters": schema}], column="tools", where="f:1") == (
        {"type": "function", "function": {"name": "f", "parameters": bare}},
    )
    written = json.dumps({"type": "function", "function": {"name": "f", "parameters": schema}})
    assert tools_of(written, column="tools", where="f:1") == (json.loads(written),)
    assert tools_of(None, column="tools", where="f:1") == tools_of("", column="tools", where="f:1") == ()
