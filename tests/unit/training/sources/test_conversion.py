"""The shapes people's rows have, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_training.contract.dataset import Columns, RowKind
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.columns import Shape, detect
from finetune_training.sources.conversion import convert
from finetune_training.sources.rows import Messages, PromptCompletion, Row, Text

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


USUAL = Columns()


def _row(row: dict[str, Any], kind: RowKind = RowKind.AUTO, named: Columns = USUAL) -> Row | None:
    return convert(row, detect(row, kind=kind, named=named, where="f:1"), where="f:1")


def _error(row: dict[str, Any], kind: RowKind = RowKind.AUTO, named: Columns = USUAL) -> str:
    with pytest.raises(FinetuneError) as caught:
        _row(row, kind, named)
    failure = caught.value.failure
    assert failure.cls is FailureClass.DATA
    assert failure.message.startswith("f:1")
    return f"{failure.reason}: {failure.message} {failure.remedy}"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": CHAT, "id": 7}, Messages(CHAT, "f:1")),
        ({"conversations": CHAT}, Messages(CHAT, "f:1")),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            Messages(CHAT, "f:1"),
        ),
        ({"prompt": "q", "completion": "a", "text": "x"}, PromptCompletion("q", "a", "f:1")),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, Messages(CHAT, "f:1")),
        ({"prompt": "q", "completion": CHAT[1:]}, Messages(CHAT, "f:1")),
        ({"instruction": "do", "input": "this", "output": "done"}, PromptCompletion("do\n\nthis\n\n", "done", "f:1")),
        ({"instruction": "do", "input": "", "output": "done"}, PromptCompletion("do\n\n", "done", "f:1")),
        ({"instruction": "do", "output": "done"}, PromptCompletion("do\n\n", "done", "f:1")),
        ({"text": "t", "url": "u"}, Text("t", "f:1")),
        ({"content": "t"}, Text("t", "f:1")),
    ],
)
def test_the_usual_columns_are_told_apart(row: dict[str, Any], expected: Row) -> None:
    assert _row(row) == expected


@pytest.mark.parametrize(
    ("row", "named", "expected"),
    [
        ({"chat": CHAT, "text": "t"}, {"messages": "chat"}, Messages(CHAT, "f:1")),
        ({"q": "1", "a": "2"}, {"prompt": "q", "completion": "a"}, PromptCompletion("1", "2", "f:1")),
        ({"prompt": "1", "a": "2", "text": "t"}, {"completion": "a"}, PromptCompletion("1", "2", "f:1")),
        (
            {"instruction": "1", "output": "2"},
            {"prompt": "instruction", "completion": "output"},
            PromptCompletion("1", "2", "f:1"),
        ),
        ({"body": "t", "messages": CHAT}, {"text": "body"}, Text("t", "f:1")),
    ],
)
def test_named_columns_go_before_the_usual_ones(row: dict[str, Any], named: dict[str, str], expected: Row) -> None:
    assert _row(row, named=Columns(**named)) == expected


def test_the_kind_decides_between_columns() -> None:
    row = {"messages": CHAT, "prompt": "q", "completion": "a", "text": "t"}
    assert _row(row, RowKind.TEXT) == Text("t", "f:1")
    assert _row(row, RowKind.PROMPT_COMPLETION) == PromptCompletion("q", "a", "f:1")


def test_pairs_become_conversations_when_messages_are_asked_for() -> None:
    assert _row({"prompt": "q", "completion": "a"}, RowKind.MESSAGES) == Messages(CHAT, "f:1")
    alpaca = _row({"instruction": "do", "input": "this", "output": "a"}, RowKind.MESSAGES)
    assert alpaca == Messages([{"role": "user", "content": "do\n\nthis"}, CHAT[1]], "f:1")


def test_sharegpt_roles_become_the_templates_roles() -> None:
    names = ["system", "human", "gpt", "observation", "assistant", "user"]
    row = _row({"conversations": [{"from": name, "value": "x", "name": "n"} for name in names]})
    assert isinstance(row, Messages)
    assert [message["role"] for message in row.messages] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert row.messages[0] == {"role": "system", "content": "x", "name": "n"}


def test_messages_lose_nulls_and_parts_become_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    calls = [{"function": {"name": "f", "arguments": {}}}]
    row = _row(
        {
            "messages": [
                {"role": "user", "content": parts, "name": None},
                {"role": "assistant", "content": None, "tool_calls": calls},
            ]
        }
    )
    assert row == Messages(
        [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "", "tool_calls": calls}], "f:1"
    )


def test_messages_may_be_json_in_a_cell() -> None:
    assert _row({"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'}) == Messages(
        CHAT, "f:1"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"messages": []},
        {"messages": None},
        {"prompt": "q", "completion": " "},
        {"prompt": None, "completion": None},
        {"instruction": "q", "output": ""},
        {"text": " \n"},
        {"text": None},
        {"text": []},
        {"messages": {}},
        {"prompt": {}, "completion": []},
        {"prompt": "q", "completion": []},
        {},
    ],
)
def test_rows_that_hold_nothing_are_left_out(row: dict[str, Any]) -> None:
    assert (_row(row) if row else convert(row, Shape(RowKind.TEXT, ("text",)), where="f:1")) is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": "hello"}, 'messages should be a list of messages, but is text ("hello")'),
        ({"messages": ["hello"]}, 'messages[0] should be a message with role and content, but is text ("hello")'),
        ({"messages": [{"content": "x"}]}, "messages[0] has no role; it has 'content'"),
        ({"messages": [{"role": "user"}]}, "messages[0]: content should be text, but is null"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part that is not text"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "nobody knows who 'narrator' is"),
        ({"prompt": "x", "completion": 5}, "completion should be text, but is a number (5)"),
        ({"prompt": ["x"], "completion": "y"}, 'prompt should be text, but is a list (["x"])'),
        ({"text": {"a": True}}, 'text should be text, but is an object ({"a": true})'),
    ],
)
def test_a_wrong_type_is_said_with_its_place(row: dict[str, Any], says: str) -> None:
    assert says in _error(row)


def test_undetectable_columns_are_listed_with_what_to_set() -> None:
    message = _error({"question": "q", "answer": "a"})
    assert message.startswith("ColumnsUnknown: ")
    assert "there are 'question', 'answer'" in message
    assert "spec.dataset.columns" in message
    assert "prompt + completion" in message
    assert "spec.dataset.kind: Auto" in _error({"messages": CHAT}, RowKind.TEXT)


def test_a_named_column_that_is_missing_is_said() -> None:
    message = _error({"question": "q", "answer": "a"}, named=Columns(prompt="questoin", completion="answer"))
    assert "ColumnMissing: f:1: there is no column 'questoin'; there are 'question', 'answer'" in message


def test_a_later_row_without_the_column_is_said() -> None:
    with pytest.raises(FinetuneError, match=r"f:9: the row has no column 'completion'.*it has 'prompt'"):
        convert({"prompt": "q"}, Shape(RowKind.PROMPT_COMPLETION, ("prompt", "completion")), where="f:9")


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
SYSTEM = {"role": "system", "content": "s"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
JUDGED = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # ShareGPT and LLaMA-Factory
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                    {"from": "observation", "value": "1"},
                    {"from": "gpt", "value": "a"},
                ],
                "system": "s",
                "tools": json.dumps([TOOLS[0]["function"]]),
            },
            Messages(
                [
                    SYSTEM,
                    CHAT[0],
                    {"role": "assistant", "content": "", "tool_calls": [CALL]},
                    {"role": "tool", "content": "1"},
                    CHAT[1],
                ],
                "f:1",
                tuple(TOOLS),
            ),
        ),
        # The list's own system prompt goes before the column's
        ({"messages": [SYSTEM, *CHAT], "system": "other"}, Messages([SYSTEM, *CHAT], "f:1")),
        ({"messages": CHAT, "system": " ", "tools": "[]"}, Messages(CHAT, "f:1")),
        # OpenAI, Mistral, Together
        (
            {
                "messages": [
                    CHAT[0],
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
                        ],
                        "weight": 0,
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "1"},
                    {**CHAT[1], "weight": 1},
                ],
                "tools": TOOLS,
                "parallel_tool_calls": False,
            },
            Messages(
                [
                    CHAT[0],
                    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **CALL}]},
                    {"role": "tool", "tool_call_id": "1", "content": "1"},
                    CHAT[1],
                ],
                "f:1",
                tuple(TOOLS),
                frozenset({1}),
            ),
        ),
        (
            {
                "messages": [
                    CHAT[0],
                    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
                    {"role": "function", "name": "f", "content": "1"},
                    CHAT[1],
                ],
                "functions": [TOOLS[0]["function"]],
            },
            Messages(
                [
                    CHAT[0],
                    {"role": "assistant", "content": "", "tool_calls": [CALL]},
                    {"role": "tool", "name": "f", "content": "1"},
                    CHAT[1],
                ],
                "f:1",
                tuple(TOOLS),
            ),
        ),
        # TRL
        ({"prompt": CHAT[:1], "completion": CHAT[1:], "tools": TOOLS}, Messages(CHAT, "f:1", tuple(TOOLS))),
        (
            {"prompt": [*CHAT, CHAT[0]], "completion": CHAT[1:]},
            Messages([*CHAT, *CHAT], "f:1", unlearnt=frozenset({1})),
        ),
        # Alpaca
        (
            {
                "instruction": "q",
                "input": "",
                "output": "a",
                "system": "s",
                "history": [["q1", "a1"], ["q2", None]],
            },
            Messages(
                [
                    SYSTEM,
                    {"role": "user", "content": "q1"},
                    {"role": "assistant", "content": "a1"},
                    {"role": "user", "content": "q2"},
                    *CHAT,
                ],
                "f:1",
            ),
        ),
        ({"instruction": "q", "output": "a", "history": '[["q", "a"]]'}, Messages([*CHAT, *CHAT], "f:1")),
        ({"instruction": "q", "output": "a", "history": None}, Messages(CHAT, "f:1")),
        ({"instruction": "q", "output": " ", "history": []}, None),
        ({"prompt": None, "completion": CHAT[1:]}, Messages(CHAT[1:], "f:1")),
        ({"prompt": "null", "completion": CHAT[1:]}, Messages([{**CHAT[0], "content": "null"}, CHAT[1]], "f:1")),
        ({"prompt": "q", "completion": "a", "history": CHAT}, Messages([*CHAT, *CHAT], "f:1")),
    ],
)
def test_the_files_that_other_tools_train_on_are_read(row: dict[str, Any], expected: Row | None) -> None:
    assert _row(row) == expected


def test_columns_beside_a_conversation_may_be_named() -> None:
    named = Columns(system="persona", tools="api")
    row = {"messages": CHAT, "persona": "s", "api": TOOLS, "system": "no", "tools": "no"}
    assert _row(row, named=named) == Messages([SYSTEM, *CHAT], "f:1", tuple(TOOLS))


def test_a_plain_pair_takes_no_system_prompt_or_turns_unless_it_is_told_to_ignore_them() -> None:
    row = {"instruction": "q", "output": "a", "history": [["q", "a"]]}
    assert _row(row, RowKind.PROMPT_COMPLETION) == PromptCompletion("q\n\n", "a", "f:1")
    shape = detect({"instruction": "q", "output": "a"}, kind=RowKind.AUTO, named=USUAL, where="f:1")
    assert convert({**row, "history": []}, shape, where="f:2") == PromptCompletion("q\n\n", "a", "f:2")
    with pytest.raises(FinetuneError, match="f:2: the row has 'history'") as caught:
        convert(row, shape, where="f:2")
    assert caught.value.failure.reason == "KindUnclear"
    assert "spec.dataset.kind: Messages" in caught.value.failure.remedy


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": CHAT, "rejected": CHAT, "messages": CHAT},
        {"instruction": "q", "chosen": "a", "rejected": "b"},
        {"input": {"messages": CHAT[:1]}, "preferred_output": CHAT[1:], "non_preferred_output": CHAT[1:]},
        {"messages": CHAT, "rejected_response": "b"},
        {"instruction": "q", "output": "a", "kto_tag": True},
        {**JUDGED, "label": False},
    ],
)
def test_answers_of_which_one_is_better_are_refused_as_such(row: dict[str, Any]) -> None:
    for kind in RowKind:
        message = _error(row, kind)
        assert message.startswith("PreferencePairs: f:1: the columns ")
        assert "no objective for preferences yet" in message
        assert "spec.dataset.columns" in message


def test_the_better_answers_alone_are_learnt_when_the_spec_names_them() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert _row(row, named=Columns(completion="chosen")) == PromptCompletion("q", "a", "f:1")
    assert _row({"chosen": CHAT, "rejected": CHAT}, named=Columns(messages="chosen")) == Messages(CHAT, "f:1")
    assert _row({**JUDGED, "label": 3}) == PromptCompletion("q", "a", "f:1")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": CHAT, "system": {"a": 1}}, 'system should be text, but is an object ({"a": 1})'),
        ({"messages": CHAT, "tools": "no JSON"}, 'tools should be JSON, but is text ("no JSON")'),
        ({"messages": CHAT, "tools": ["search"]}, "tools should be a list of tools"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "history should be a list of pairs"),
        ({"instruction": "q", "output": "a", "history": "q"}, "history should be a list of turns"),
    ],
)
def test_what_is_wrong_beside_a_conversation_is_said(row: dict[str, Any], says: str) -> None:
    empty = {name: None if name in ("system", "tools", "history") else value for name, value in row.items()}
    shape = detect(empty, kind=RowKind.AUTO, named=USUAL, where="f:1")
    with pytest.raises(FinetuneError) as caught:
        convert(row, shape, where="f:2")
    assert f"f:2: {says}" in caught.value.failure.message
    for name in {"system", "tools"} & set(row):
        assert f"f:1: {says}" in _error(row, named=Columns(**{name: name}))


def test_all_columns_that_a_row_needs_are_read_of_a_table() -> None:
    """tables.py takes the first and the last for those that must be there."""
    for row in (
        {"messages": CHAT},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "output": "a"},
        {"text": "t"},
    ):
        shape = detect(row, kind=RowKind.AUTO, named=USUAL, where="f:1")
        assert (shape.wanted[0], shape.wanted[-1]) == shape.required
        assert {*shape.columns, *shape.beside} == set(shape.wanted)


def test_of_messages_beside_a_pair_those_are_learnt_that_the_spec_names() -> None:
    row = {"prompt": "q", "chosen": CHAT, "rejected": CHAT, "messages": CHAT}
    assert _row(row, named=Columns(messages="messages")) == Messages(CHAT, "f:1")
    assert "columns.messages (or completion, or text): messages." in _error(row)


def test_a_cell_without_messages_is_an_empty_row() -> None:
    assert convert({"messages": " "}, Shape(RowKind.MESSAGES, ("messages",)), where="f:1") is None
