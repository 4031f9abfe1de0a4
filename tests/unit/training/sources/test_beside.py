"""What stands beside a conversation is understood in each of its forms, or passed over with a warning; no name ends a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.dataset import DatasetSpec
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.rows import Messages, PromptCompletion
from finetune_training.sources.sourcefiles import SourceFile, open_sources

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SYSTEM = {"role": "system", "content": "s"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ALPACA = {"instruction": "q", "output": "a"}
TURNS = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]


def _open(path: Path, *rows: dict[str, Any], **dataset: Any) -> SourceFile:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_sources(DatasetSpec.model_validate({"train": [{"uri": str(path)}], **dataset}))[0]


def _only(file: SourceFile) -> Any:
    (row,) = [file.convert(*each) for each in file.rows()]
    return row


NO_TOOLS: list[Any] = [None, "", " ", [], {}, "[]", "{}", "null", [None], [{}]]
TOOLS = [
    [TOOL],
    TOOL,
    json.dumps([TOOL]),
    json.dumps(TOOL),
    [json.dumps(TOOL)],
    [TOOL["function"]],
    TOOL["function"],
    [TOOL, None],
]
CALLED_TOOLS = [
    ["search"],
    "a, b",
    "search",
    '["search"]',
    "['search']",
    5,
    True,
    [[]],
    [{"type": "text", "text": "x"}],
    [{"x": 1}],
]


@pytest.mark.parametrize("columns", [{"messages": CHAT}, {"prompt": "q", "completion": "a"}, ALPACA])
@pytest.mark.parametrize("column", ["tools", "functions"])
@pytest.mark.parametrize(
    ("value", "tools", "is_strange"),
    [
        *((value, (), False) for value in NO_TOOLS),
        *((value, (TOOL,), False) for value in TOOLS),
        *((value, (), value not in ([[]],)) for value in CALLED_TOOLS),
    ],
)
def test_tools_are_read_or_passed_over(
    tmp_path: Path, columns: dict[str, Any], column: str, value: Any, tools: Any, is_strange: bool
) -> None:
    file = _open(tmp_path / "a.jsonl", {**columns, column: value})
    assert file.survey.ignored == ((column,) if is_strange else ())
    assert any(f"column '{column}': " in said for said in file.survey.warnings) == is_strange
    row = _only(file)
    if is_strange and "messages" not in columns:  # and it makes no conversation of a pair
        assert isinstance(row, PromptCompletion)
    else:
        assert row == Messages(CHAT, f"{tmp_path}/a.jsonl:1", tools)


NO_SYSTEM: list[Any] = [None, "", " ", [], {}, [None], {"content": None}, {"role": None}]
SYSTEMS: list[Any] = [
    "s",
    ["s"],
    {"type": "text", "text": "s"},
    [{"type": "text", "text": "s"}],
    {"content": "s"},
    SYSTEM,
    [SYSTEM],
    [{"role": "system", "content": [{"type": "text", "text": "s"}]}],
]
CALLED_SYSTEM: list[Any] = [5, True, False, {"id": 3}, [1], [{"id": "x"}]]


@pytest.mark.parametrize("columns", [{"messages": CHAT}, ALPACA])
@pytest.mark.parametrize(
    ("value", "said", "is_strange"),
    [
        *((value, [], False) for value in NO_SYSTEM),
        *((value, [SYSTEM], False) for value in SYSTEMS),
        *((value, [], True) for value in CALLED_SYSTEM),
    ],
)
def test_a_system_prompt_is_read_or_passed_over(
    tmp_path: Path, columns: dict[str, Any], value: Any, said: list[Any], is_strange: bool
) -> None:
    file = _open(tmp_path / "a.jsonl", {**columns, "system": value})
    assert file.survey.ignored == (("system",) if is_strange else ())
    assert any("column 'system': " in warning for warning in file.survey.warnings) == is_strange
    row = _only(file)
    if is_strange and "messages" not in columns:
        assert isinstance(row, PromptCompletion)
    else:
        assert row == Messages([*said, *CHAT], f"{tmp_path}/a.jsonl:1")


NO_TURNS: list[Any] = [None, "", [], {}, [[]], "[[]]", "null", [None], [["", ""]], [[None, None]], [[None]]]
PAIRS: list[Any] = [
    [["q1", "a1"]],
    '[["q1", "a1"]]',
    [["q1", "a1"], []],
    [[], None, ["q1", "a1"]],
    TURNS,
    json.dumps(TURNS),
]
CALLED_HISTORY: list[Any] = ["Diabetes since 2004.", 5, True, {"ill": "yes"}, ["q", "a"]]


@pytest.mark.parametrize(
    ("value", "said", "is_strange"),
    [
        *((value, [], False) for value in NO_TURNS),
        *((value, TURNS, False) for value in PAIRS),
        *((value, [], True) for value in CALLED_HISTORY),
    ],
)
def test_earlier_turns_are_read_or_passed_over(tmp_path: Path, value: Any, said: list[Any], is_strange: bool) -> None:
    file = _open(tmp_path / "a.jsonl", {**ALPACA, "history": value})
    assert file.survey.ignored == (("history",) if is_strange else ())
    assert any("column 'history': " in warning for warning in file.survey.warnings) == is_strange
    row = _only(file)
    if is_strange:
        assert isinstance(row, PromptCompletion)
    else:
        assert row == Messages([*said, *CHAT], f"{tmp_path}/a.jsonl:1")


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"history": [["q"]]}, "history[0] is a list"),
        ({"history": [["q", "a"], ["q", "a", "x"]]}, "history[1] is a list"),
        ({"history": [["q", 5]]}, "history[0] is a list"),
        ({"history": [["q", "a"], "x"]}, "history[1] is text"),
        ({"history": [[["q", "a"]]]}, "history[0] is a list"),
        ({"history": [{"user": "q", "assistant": "a"}]}, "history[0] has no role"),
        ({"history": "[["}, "history should be a list of turns"),
        ({"tools": [TOOL, "search"]}, "tools[1] is no tool with a name"),
        ({"tools": [TOOL, {"function": "f"}]}, "tools[1] is no tool with a name"),
        ({"tools": '[{"name": "f"}'}, "tools should be JSON"),
        ({"tools": "[{'name': 'f'}]"}, "tools should be JSON"),
        ({"tools": ['{"name": "f"']}, "tools[0] should be JSON"),
    ],
)
def test_what_is_meant_and_is_wrong_is_said_with_its_place(tmp_path: Path, beside: dict[str, Any], says: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        _open(tmp_path / "a.jsonl", {**ALPACA, **beside})
    failure = caught.value.failure
    assert failure.cls is FailureClass.DATA
    assert failure.message.startswith(f"{tmp_path}/a.jsonl:1: ")
    assert says in failure.message
    assert failure.remedy


def test_a_plain_text_passes_over_whatever_stands_beside_it(tmp_path: Path) -> None:
    file = _open(tmp_path / "a.jsonl", {"text": "t", "tools": "a, b", "system": 5, "history": {"a": 1}})
    assert file.survey.ignored == ("tools", "system", "history")


def test_a_column_that_means_something_in_one_row_means_it_in_all(tmp_path: Path) -> None:
    real: dict[str, Any] = {**ALPACA, "tools": [TOOL]}
    other: dict[str, Any] = {**ALPACA, "tools": "none"}
    for rows in ([real, other], [other, real]):
        with pytest.raises(FinetuneError, match=r'a\.jsonl:[12]: tools should be JSON, but is text \("none"\)'):
            _open(tmp_path / "a.jsonl", *rows)
