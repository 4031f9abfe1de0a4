"""The shapes people's rows have, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_training.contract.dataset import Columns, RowKind
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.data.rows import Messages, PromptCompletion, Row, Shape, Text, convert, detect, identity, parse

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
    row = _row({"conversations": [{"from": name, "value": "x", "weight": 1} for name in names]})
    assert isinstance(row, Messages)
    assert [message["role"] for message in row.messages] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert row.messages[0] == {"role": "system", "content": "x", "weight": 1}


def test_messages_lose_nulls_and_parts_become_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    calls = [{"function": {"name": "f"}}]
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
    ],
)
def test_rows_that_hold_nothing_are_left_out(row: dict[str, Any]) -> None:
    assert _row(row) is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": "hello"}, 'messages should be a list of messages, but is text ("hello")'),
        ({"messages": ["hello"]}, 'messages[0] should be a message with role and content, but is text ("hello")'),
        ({"messages": [{"content": "x"}]}, "messages[0] has no role; it has 'content'"),
        ({"messages": [{"role": "user"}]}, "messages[0]: content should be text, but is null"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part that is not text"),
        ({"conversations": [{"from": "bing", "value": "x"}]}, "nobody knows who 'bing' is"),
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1', "f:3: not JSON: Expecting ',' delimiter, at column 8"),
        ("[1]", "f:3: a row should be a JSON object, but is a list"),
        ("[" * 100_000, "f:3: not JSON: nested too deeply"),
    ],
)
def test_broken_json_is_said_with_its_place(text: str, says: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        parse(text, where="f:3")
    assert caught.value.failure.cls is FailureClass.DATA
    assert caught.value.failure.message.startswith(says)


def test_identity_depends_on_content_alone() -> None:
    same: list[Row] = [Text("a", "f:1"), Text("a", "g:2")]
    other: list[Row] = [
        Text("b", "f:1"),
        PromptCompletion("", "a", "f:1"),
        PromptCompletion("a", "", "f:1"),
        Messages(CHAT, "f:1"),
    ]
    assert len({identity(row) for row in same}) == 1
    assert len({identity(row) for row in [*same, *other]}) == 5
    reordered = Messages([dict(reversed(list(message.items()))) for message in CHAT], "f:1")
    assert identity(reordered) == identity(Messages(CHAT, "f:2"))


def test_identity_never_changes() -> None:
    """Shards and the choice of held-out rows hang on it: a new value is a new prepare.DATA_FORMAT."""
    assert identity(Text("To be", "")) == 6626981271089423070
    assert identity(Messages(CHAT, "")) == 10769828892899036032


def test_half_a_surrogate_pair_is_a_data_error() -> None:
    with pytest.raises(FinetuneError, match="f:1: half of a surrogate pair"):
        identity(Text("\ud800", "f:1"))
