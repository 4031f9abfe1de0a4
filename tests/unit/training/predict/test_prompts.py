"""A row's prompt is what its file's people meant by it, or an error says where and why it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finetune_training.chat.habits import end_of_turn
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.predict.prompts import column_of, encode, prompt_of
from tests.tiny import CHATML, CHATML_MARKED, write_tokenizer

USER, SYSTEM = {"role": "user", "content": "Love?"}, {"role": "system", "content": "Be brief."}
ASSISTANT = {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ({"prompt": "Love?", "messages": None}, "prompt", "Love?"),
        ({"prompt": [USER]}, "prompt", [USER]),
        ({"messages": [SYSTEM, USER]}, "messages", [SYSTEM, USER]),
        ({"messages": [USER, ASSISTANT]}, "messages", [USER]),
        ({"messages": [USER, ASSISTANT, USER]}, "messages", [USER, ASSISTANT, USER]),
        ({"messages": [{"from": "human", "value": "Love?"}]}, "messages", [USER]),
        ({"messages": '[{"role": "user", "content": "Love?"}]'}, "messages", [USER]),
    ],
)
def test_a_prompt_is_text_or_messages_up_to_the_answer(row: dict[str, Any], column: str, expected: object) -> None:
    assert prompt_of(row, column=column, where="a.jsonl:1") == expected


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"prompt": "  "}, "prompt", "EmptyPrompt"),
        ({"prompt": None}, "prompt", "EmptyPrompt"),
        ({"messages": []}, "messages", "EmptyPrompt"),
        ({"messages": [ASSISTANT]}, "messages", "EmptyPrompt"),
        ({"prompt": 7}, "prompt", "WrongType"),
        ({"messages": "Love?"}, "messages", "WrongType"),
        ({"text": "Love?"}, "prompt", "ColumnMissing"),
    ],
)
def test_what_is_no_prompt_is_said_with_its_place(row: dict[str, Any], column: str, reason: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        prompt_of(row, column=column, where="a.jsonl:3")
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.DATA, reason)
    assert caught.value.failure.message.startswith("a.jsonl:3")


def test_messages_come_before_a_prompt_and_other_columns_are_listed() -> None:
    assert column_of({"prompt": "", "messages": []}, where="a.jsonl:1") == "messages"
    assert column_of({"id": 1, "prompt": ""}, where="a.jsonl:1") == "prompt"
    with pytest.raises(FinetuneError) as caught:
        column_of({"question": "?", "id": 1}, where="a.jsonl:1")
    assert "'question', 'id'" in caught.value.failure.message


def test_a_text_is_one_message_of_the_user_where_there_is_a_template(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "chat"))
    asked = "<|im_start|>user\nLove?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(encode(tokenizer, "Love?", chat=True)) == asked
    assert encode(tokenizer, [USER], chat=False) == encode(tokenizer, "Love?", chat=True)
    assert tokenizer.decode(encode(tokenizer, "Love?", chat=False)) == "Love?"
    plain = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "plain", chat_template=None))
    assert plain.decode(encode(plain, "Love?", chat=True)) == "Love?"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, "<|im_end|>"),
        (CHATML_MARKED, "<|im_end|>"),
        ("{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}", None),
        ("{% for message in messages %}{{ message['role'] + '<|im_end|>' }}{% endfor %}", None),
        ("{{ raise_exception('never') }}", None),
        (None, None),
    ],
)
def test_a_template_says_which_token_ends_a_turn(tmp_path: Path, template: str | None, ends: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, chat_template=template))
    assert end_of_turn(tokenizer) == (tokenizer.convert_tokens_to_ids(ends) if ends else None)


def test_a_text_with_a_system_prompt_beside_it_is_asked_as_it_was_learnt() -> None:
    row = {"system": "be kind", "prompt": "hi", "completion": "yo"}
    asked = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert prompt_of(row, column="prompt", where="f:1") == asked
    assert prompt_of(row | {"system": ""}, column="prompt", where="f:1") == "hi"
