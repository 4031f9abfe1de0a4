"""What nothing uses is named, once per source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.dataset import DatasetSpec
from finetune_training.contract.failure import FinetuneError
from finetune_training.sources.sourcefiles import open_sources
from finetune_training.sources.survey import SURVEYED, Survey

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def _survey(path: Path, *rows: dict[str, Any], **dataset: Any) -> Survey:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_sources(DatasetSpec.model_validate({"train": [{"uri": str(path)}], **dataset}))[0].survey


def test_columns_that_nothing_uses_are_listed_whichever_row_has_them(tmp_path: Path) -> None:
    found = _survey(
        tmp_path / "a.jsonl",
        {"messages": CHAT, "id": 1},
        {"messages": CHAT, "tools": [], "system": "", "chat_template_kwargs": {}, "weight": 0.5},
    )
    assert found.columns == ("messages", "id", "tools", "system", "chat_template_kwargs", "weight")
    assert found.ignored == ("id", "chat_template_kwargs", "weight")
    assert (
        found.warnings[0] == "spec.dataset.train[0]: nothing uses the columns 'id', 'chat_template_kwargs', 'weight'."
    )


def test_arguments_of_the_template_in_a_row_are_said_to_be_the_runs(tmp_path: Path) -> None:
    found = _survey(tmp_path / "a.jsonl", {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": False}})
    assert found.warnings == [
        "spec.dataset.train[0]: nothing uses the columns 'chat_template_kwargs'.",
        "spec.dataset.train[0], column 'chat_template_kwargs': arguments of the chat template are the same for all rows: set "
        "them in spec.dataset.chatTemplateArgs, and give rows that want others a run of their own.",
    ]


def test_what_a_plain_pair_or_a_text_has_no_place_for_is_ignored_and_said(tmp_path: Path) -> None:
    alpaca = {"instruction": "q", "input": "", "output": "a", "system": "s"}
    assert _survey(tmp_path / "a.jsonl", alpaca).ignored == ()
    assert _survey(tmp_path / "b.jsonl", alpaca, kind="PromptCompletion").ignored == ("system",)
    assert _survey(tmp_path / "c.jsonl", {"text": "t", "tools": [], "images": []}).ignored == ("tools", "images")
    assert _survey(tmp_path / "d.jsonl", {"text": "t"}).warnings == []


def test_keys_of_messages_are_for_the_template_to_use(tmp_path: Path) -> None:
    thought = {**CHAT[1], "reasoning_content": "t", "name": "n", "weight": 1, "timestamp": 5}
    found = _survey(tmp_path / "a.jsonl", {"messages": [CHAT[0], thought]})
    assert found.keys == ("reasoning_content", "name", "timestamp")
    assert found.unused_keys("{{ message.reasoning_content }}{{ tool.function_name }}") == ("name", "timestamp")
    assert found.key_warnings("{{ m['name'] }}{{ m.timestamp }}") == [
        "spec.dataset.train[0]: the chat template does not use 'reasoning_content' of the messages."
    ]
    assert found.key_warnings("reasoning_content name timestamp") == []


def test_a_named_column_that_no_row_has_is_said(tmp_path: Path) -> None:
    found = _survey(tmp_path / "a.jsonl", {"messages": CHAT, "tools": []}, columns={"tools": "toolz"})
    assert found.warnings == [
        "spec.dataset.train[0]: nothing uses the columns 'tools'.",
        "spec.dataset.train[0]: no row that was looked at has 'toolz', which spec.dataset.columns names.",
    ]


def test_the_first_rows_are_tried_and_not_all(tmp_path: Path) -> None:
    good = [{"messages": CHAT}] * SURVEYED
    assert _survey(tmp_path / "a.jsonl", *good, {"no": 1}).columns == ("messages",)
    with pytest.raises(FinetuneError, match=r"a\.jsonl:2: .* no column 'messages'"):
        _survey(tmp_path / "a.jsonl", good[0], {"no": 1})
