"""What a message holds is learnt as its API means it, or refused by its place; nobody speaks who is not known."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.messages import conversation_of

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
FUNCTION = CALL["function"]
ASKED = {"role": "user", "content": "q"}
SAID = {"role": "assistant", "content": "a"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TEXT = {"type": "text", "text": "a"}


def _message(message: Any) -> dict[str, Any]:
    (found,) = conversation_of([message], column="m", where="f:1").messages
    return found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # OpenAI's answers, as its library writes them
        ({**SAID, "refusal": None, "audio": None, "function_call": None, "tool_calls": None, "name": None}, SAID),
        ({**SAID, "tool_calls": []}, SAID),
        ({**SAID, "tool_calls": "", "function_call": {}}, SAID),
        ({**SAID, "tool_calls": [None]}, SAID),
        ({**SAID, "tool_calls": [{"id": None, "function": {"name": None, "arguments": None}}]}, SAID),
        ({**SAID, "function_call": {"name": None, "arguments": None}}, SAID),
        ({**SAID, "name": "bob"}, {**SAID, "name": "bob"}),
        ({"role": "assistant", "content": None, "refusal": "a"}, SAID),
        ({"role": "assistant", "refusal": "a"}, SAID),
        ({"role": "assistant", "content": "", "refusal": "a"}, SAID),
        ({"role": "assistant", "content": [], "refusal": "a"}, SAID),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "a"}]}, SAID),
        ({**SAID, "refusal": "no"}, {**SAID, "refusal": "no"}),
        # Calls without words
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, CALLED),
        ({"role": "assistant", "content": None, "function_call": FUNCTION}, CALLED),
        ({"role": "assistant", "content": None, "function_call": '{"name": "f", "arguments": {"x": 1}}'}, CALLED),
        ({**SAID, "function_call": FUNCTION}, {**SAID, "tool_calls": [CALL]}),
        ({"role": "assistant", "function_call": FUNCTION, "tool_calls": [CALL]}, CALLED),
        ({"from": "function_call", "value": FUNCTION}, CALLED),
        ({"from": "function_call", "value": [FUNCTION]}, CALLED),
        # Thoughts without words
        (
            {"role": "assistant", "content": None, "reasoning_content": "t"},
            {"role": "assistant", "content": "", "reasoning_content": "t"},
        ),
        # Parts
        ({"role": "assistant", "content": [TEXT]}, SAID),
        ({"role": "assistant", "content": TEXT}, SAID),
        ({"role": "assistant", "content": ["a"]}, SAID),
        ({"role": "assistant", "content": [TEXT, None]}, SAID),
        ({"role": "assistant", "content": [{**TEXT, "image_url": None}]}, SAID),
        ({"role": "user", "content": [{"type": "input_text", "text": "a"}, "b"]}, {"role": "user", "content": "ab"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        # What a tool gives
        *(
            ({"role": "tool", "content": given}, {"role": "tool", "content": text})
            for given, text in (
                ("r", "r"),
                (None, ""),
                ({"a": "\u00e9"}, '{"a": "\u00e9"}'),
                ([{"a": 1}, {"b": 2}], '[{"a": 1}, {"b": 2}]'),
                (["a", "b"], '["a", "b"]'),
                (5, "5"),
                (True, "true"),
                ([TEXT, TEXT], "aa"),
                (TEXT, "a"),
                ([], ""),
            )
        ),
        ({"from": "observation", "value": {"a": 1}}, {"role": "tool", "content": '{"a": 1}'}),
    ],
)
def test_a_message_holds_what_its_api_means(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert _message(message) == expected


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "assistant", "content": None}, "content should be text, but is null"),
        ({"role": "assistant"}, "content should be text, but is null"),
        ({"role": "assistant", "content": None, "audio": {"id": "x"}}, "content should be text, but is null"),
        ({"role": "user", "content": None}, "content should be text, but is null"),
        ({"role": "assistant", "content": 5}, "content should be text, but is a number (5)"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "not text (image_url)"),
        ({"role": "tool", "content": [TEXT, {"type": "image"}]}, "not text (image)"),
        ({"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}, "not text (tool_use)"),
        ({"role": "assistant", "content": {"a": 1}}, "a part that is not text"),
        ({"role": "assistant", "content": [TEXT, 5]}, "a part that is not text"),
        ({"role": None, "content": "x"}, "m[0] has no role; it has 'content'"),
        ({"role": 5, "content": "x"}, "m[0] has no role"),
        ({"role": "assistant", "function_call": "f(1)"}, 'function_call should be JSON, but is text ("f(1)")'),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f"}}]}, "tool_calls[0] should be"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place_and_a_remedy(message: dict[str, Any], says: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        _message(message)
    failure = caught.value.failure
    assert failure.cls is FailureClass.DATA
    assert failure.message.startswith("f:1: m[0]")
    assert says in failure.message
    assert failure.remedy


NAMES = {
    "user": ["human", "user", "Human", "USER", "prompter"],
    "assistant": ["gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot", "ai", "GPT", "Assistant", "claude"],
    "system": ["system", "System"],
    "developer": ["developer"],
    "tool": ["tool", "function", "tool_response", "tool-response", "function_response", "tool result"],
}
OWN = ["observation", "environment", "ipython"]
CALLS = ["function_call", "function-call", "tool_call", "tool-call", "Function-Call"]


@pytest.mark.parametrize("key", ["from", "role"])
@pytest.mark.parametrize(("name", "role"), [(name, role) for role, names in NAMES.items() for name in names])
def test_a_speaker_is_known_by_each_of_the_names_that_data_sets_have(name: str, role: str, key: str) -> None:
    assert _message({key: name, "content": "x"}) == {"role": role, "content": "x"}


@pytest.mark.parametrize("name", OWN)
def test_a_role_that_templates_have_is_left_to_them(name: str) -> None:
    assert _message({"from": name, "value": "x"})["role"] == "tool"
    assert _message({"role": name, "content": "x"})["role"] == name


@pytest.mark.parametrize("key", ["from", "role"])
@pytest.mark.parametrize("name", CALLS)
def test_a_speaker_may_be_a_call(name: str, key: str) -> None:
    assert _message({key: name, "content": '{"name": "f", "arguments": {"x": 1}}'}) == CALLED


def test_a_stranger_is_refused_where_all_names_are_known_and_left_to_the_template_where_they_are_not() -> None:
    with pytest.raises(FinetuneError) as caught:
        _message({"from": "Narrator", "value": "x"})
    failure = caught.value.failure
    assert failure.message == "f:1: m[0]: nobody knows who 'Narrator' is (`from`)."
    for name in ("human", "gpt", "bing", "observation", "function_call"):
        assert name in failure.remedy
    assert _message({"role": "Narrator", "content": "x"}) == {"role": "Narrator", "content": "x"}
