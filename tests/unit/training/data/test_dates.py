"""A template that writes today's date: said, with what sets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_training.contract.dataset import LossOn
from finetune_training.data.notices import notices
from finetune_training.data.render import Options
from finetune_training.sources.rows import Messages
from tests.templates import SHAPES
from tests.unit.training.data.families import FAMILIES, tokenizer_of


def _said(name: str, folder: Path, row: Messages = SHAPES["one"], **arguments: Any) -> list[str]:
    options = Options(64, LossOn.ASSISTANT, chat_template_args=arguments)
    return [said for said in notices([row], tokenizer_of(FAMILIES[name], folder), options) if "date" in said]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("llama3_2", "spec.dataset.chatTemplateArgs: {date_string: …}"),
        ("mistral_tekken", "no argument that sets the date; in rows with a system message it writes none"),
        ("granite3", "no argument that sets the date; in rows with a system message it writes none"),
        ("gpt_oss", "a spec.dataset.chatTemplate without strftime_now writes none"),
        ("smollm3", "a spec.dataset.chatTemplate without strftime_now writes none"),
    ],
)
def test_a_date_that_changes_from_day_to_day_is_said_with_what_sets_it(name: str, remedy: str, tmp_path: Path) -> None:
    [said] = _said(name, tmp_path)
    assert said.startswith("The chat template writes today's date")
    assert remedy in said


def test_a_date_that_stays_is_no_news(tmp_path: Path) -> None:
    assert _said("llama3_1", tmp_path / "fixed") == []
    assert _said("llama3_2", tmp_path / "set", date_string="26 Jul 2024") == []
    assert _said("granite3", tmp_path / "ruled", SHAPES["system"]) == []
    assert _said("qwen3", tmp_path / "none") == []


def test_a_date_in_any_of_the_rows_is_said(tmp_path: Path) -> None:
    rows = [SHAPES["system"], SHAPES["one"], SHAPES["one"]]
    [said] = notices(rows, tokenizer_of(FAMILIES["granite3"], tmp_path), Options(64, LossOn.ASSISTANT))
    assert said.startswith("The chat template writes today's date")
