"""Nothing that is nested too deeply, or too long to be a number, is our own bug: file and row are said."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import finetune_training.sources
from finetune_training.contract.dataset import DatasetSpec
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources import cells
from finetune_training.sources.cells import DEEPEST, decoded, is_empty
from finetune_training.sources.rows import identity
from finetune_training.sources.sourcefiles import open_sources

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
LONG = "9" * 5_000


def _nested(depth: int, *, objects: bool = False) -> str:
    return '{"a":' * depth + "1" + "}" * depth if objects else "[" * depth + "]" * depth


def _rows(path: Path, text: str) -> list[Any]:
    path.write_text(text)
    file = open_sources(DatasetSpec.model_validate({"train": [{"uri": str(path)}]}))[0]
    found = [file.convert(*row) for row in file.rows()]
    for row in found:
        assert row is None or identity(row)
    return found


@pytest.mark.parametrize("depth", [DEEPEST, 300, 500, 900, 1_000, 100_000])
@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize(
    "row",
    [
        '{"messages": %s}',
        '{"text": "x", "extra": %s}',
        '{"messages": [{"role": "user", "content": %s}]}',
        '{"messages": [{"role": "tool", "content": %s}]}',
        '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": %s}}]}]}',
        '{"messages": [{"role": "assistant", "content": [{"thinking": [{"thinking": %s}]}]}]}',
        '{"messages": [], "tools": [{"name": "f", "parameters": %s}]}',
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_that_is_too_deep_is_told_by_its_place(
    tmp_path: Path, name: str, row: str, objects: bool, depth: int
) -> None:
    text = row % _nested(depth, objects=objects)
    with pytest.raises(FinetuneError) as caught:
        _rows(tmp_path / name, f"[\n{text}\n]" if name == "a.json" else f"\n{text}\n")
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.DATA, "BrokenJSON")
    assert failure.message.startswith(f"{tmp_path}/{name}:2: not JSON: nested too deeply")


@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 100_000])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": ...},
        {"messages": CHAT, "tools": "[{" + '"name": "f", "x": ...}]'},
        {"instruction": "q", "output": "a", "history": ...},
        {"conversations": [{"from": "function_call", "value": ...}]},
        {"messages": [{"role": "assistant", "tool_calls": ...}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ...}}]}]},
    ],
)
def test_a_cell_that_spells_what_is_too_deep_is_told_by_its_place(tmp_path: Path, row: Any, depth: int) -> None:
    text = json.dumps(row, default=lambda _: _nested(depth)).replace("...", _nested(depth))
    with pytest.raises(FinetuneError) as caught:
        _rows(tmp_path / "a.jsonl", text)
    failure = caught.value.failure
    assert failure.cls is FailureClass.DATA
    assert failure.message.startswith(f"{tmp_path}/a.jsonl:1: ")
    assert "nested too deeply" in failure.message


def test_what_is_as_deep_as_may_be_is_read(tmp_path: Path) -> None:
    arguments = _nested(DEEPEST - 7, objects=True)
    row = '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": %s}}]}]}'
    assert _rows(tmp_path / "a.jsonl", row % arguments)[0].messages[0]["tool_calls"]
    assert decoded(_nested(DEEPEST)) is not None
    assert decoded(f"[{','.join(['[]'] * 1_000)}]") == [[]] * 1_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_number_that_is_too_long_is_told_by_its_place(tmp_path: Path, name: str) -> None:
    row = f'{{"text": "x", "n": {LONG}}}'
    with pytest.raises(FinetuneError, match=r"a\.json.?:1: not JSON: a number has too many figures"):
        _rows(tmp_path / name, f"[{row}]" if name == "a.json" else row)


def test_a_saved_set_whose_description_is_too_deep_is_told(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(_nested(100_000))
    with pytest.raises(FinetuneError, match="not JSON: nested too deeply"):
        open_sources(DatasetSpec.model_validate({"train": [{"uri": str(tmp_path)}]}))


def test_nothing_else_decodes_json() -> None:
    folder = Path(finetune_training.sources.__path__[0])
    loads = {
        path.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("loads", "load") and path.name != Path(cells.__file__).name
    }
    assert loads == set()


NOTHING: list[Any] = [None, "", " \n", "[]", " {} ", "null", [], {}, [None, ""], {"a": [{}]}]
SOMETHING: list[Any] = [0, False, "a", "[1]", [0], {"a": False}, [[1]]]


@pytest.mark.parametrize("value", [*NOTHING, *SOMETHING])
def test_what_says_nothing(value: Any) -> None:
    assert is_empty(value) == any(value is each for each in NOTHING)
