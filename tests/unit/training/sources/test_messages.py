"""Messages as each tool writes them become those that templates read; what they say of learning is obeyed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.messages import LEARNT_KEYS, Conversation, conversation_of

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
SAID = json.dumps(CALL["function"])


def _conversation(*messages: Any) -> Conversation:
    return conversation_of(list(messages), column="m", where="f:1")


def _error(*messages: Any) -> str:
    with pytest.raises(FinetuneError) as caught:
        _conversation(*messages)
    assert caught.value.failure.cls is FailureClass.DATA
    return f"{caught.value.failure.reason}: {caught.value.failure.message}"


@pytest.mark.parametrize("key", LEARNT_KEYS)
@pytest.mark.parametrize(("value", "is_learnt"), [(0, False), (0.0, False), (False, False), (1, True), (True, True)])
def test_a_turn_that_says_that_it_is_not_learnt_is_not(key: str, value: Any, is_learnt: bool) -> None:
    flagged = [{**message, key: value} for message in CHAT]
    assert _conversation(*flagged, *CHAT) == Conversation([*CHAT, *CHAT], frozenset() if is_learnt else frozenset({1}))


@pytest.mark.parametrize("key", LEARNT_KEYS)
@pytest.mark.parametrize("value", [0.5, 2, "no", [0, 1]])
def test_a_weight_that_cannot_be_given_is_refused(key: str, value: Any) -> None:
    assert f"WeightUnknown: f:1: m[1]: {key} should be 0 or 1" in _error(CHAT[0], {**CHAT[1], key: value})


def test_a_message_that_is_learnt_in_parts_is_refused() -> None:
    detail = [{"begin_offset": 0, "end_offset": 1, "train": False}]
    assert "f:1: m[0]: train_detail" in _error({**CHAT[1], "train_detail": detail})
    assert _conversation({**CHAT[1], "train_detail": None, "weight": None}).messages == CHAT[1:]


@pytest.mark.parametrize(
    "call",
    [
        {"from": "function_call", "value": SAID},
        {"role": "tool_call", "content": SAID},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]},
        {"role": "assistant", "function_call": {"name": "f", "arguments": {"x": 1, "y": None}}},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
    ],
)
def test_a_call_is_an_object_however_it_is_written(call: dict[str, Any]) -> None:
    message = _conversation(CHAT[0], call).messages[1]
    assert (message["role"], message["content"]) == ("assistant", "")
    assert [each["function"] for each in message["tool_calls"]] == [CALL["function"]]


def test_messages_that_are_calls_belong_to_the_turn_before_them() -> None:
    calls = [{"role": "tool_call", "content": SAID}] * 2
    turn = {**CHAT[1], "tool_calls": [CALL, CALL]}
    result = {"role": "tool_response", "content": "1"}
    assert _conversation(*CHAT, *calls, result).messages == [CHAT[0], turn, {"role": "tool", "content": "1"}]
    assert _conversation(CHAT[0], calls[0], {**calls[1], "loss": False}).unlearnt == {2}


def test_thoughts_that_are_a_part_of_the_content_are_kept_as_thoughts() -> None:
    said = {"type": "text", "text": "a"}
    for thought in ({"type": "thinking", "thinking": "t"}, {"type": "thinking", "thinking": [{"text": "t"}]}):
        message = {"role": "assistant", "content": [thought, said]}
        assert _conversation(message).messages == [{**CHAT[1], "reasoning_content": "t"}]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"from": "function_call", "value": "f(1)"}, 'm[0]: a call should be JSON, but is text ("f(1)")'),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, "m[0]: tool_calls should be a list of calls"),
        ({"role": "assistant", "tool_calls": ["f"]}, "m[0]: tool_calls[0] should be a call with name and arguments"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "tool_calls[0] should be a call with name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x=1"}}]},
            'tool_calls[0]: arguments should be JSON, but is text ("x=1")',
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            "tool_calls[0]: arguments should be an object",
        ),
    ],
)
def test_a_call_that_is_none_is_said_with_its_place(message: dict[str, Any], says: str) -> None:
    assert says in _error(message)


def test_a_weight_of_whoever_is_not_learnt_says_nothing() -> None:
    assert _conversation({**CHAT[0], "weight": 0.5}, CHAT[1]).messages == CHAT
