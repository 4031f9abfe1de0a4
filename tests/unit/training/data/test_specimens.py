"""What a person is shown of a row is what is trained of it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_training.contract.dataset import LossOn
from finetune_training.data.render import Options, render
from finetune_training.data.shards import IGNORE
from finetune_training.data.specimens import specimens
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.sources.rows import Messages, PromptCompletion, Row, Text, identity
from tests.tiny import write_tokenizer

CHAT = Messages(
    [{"role": "user", "content": "Say 漢字 🙂"}, {"role": "assistant", "content": "naïve – 🙂"}], "rows.jsonl:1"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("model")), trust_remote_code=False)


def options(length: int = 256) -> Options:
    return Options(length, LossOn.ASSISTANT)


@pytest.mark.parametrize("row", [CHAT, PromptCompletion("Why 🙂?", " Because 漢.", "a:1"), Text("Ω 🙂 text", "a:2")])
def test_pieces_are_the_tokens_that_are_trained_each_once_and_together_the_text(row: Row, tokenizer: Any) -> None:
    (shown,) = specimens([row], tokenizer, options())
    (document,) = render([row], tokenizer, options())[0].documents
    assert [token for piece in shown.pieces for token in piece.ids] == document.input_ids
    assert "".join(piece.text for piece in shown.pieces) == tokenizer.decode(document.input_ids)
    assert (shown.tokens, shown.learnt) == (len(document.input_ids), sum(each != IGNORE for each in document.labels))
    assert shown.identity == f"{identity(row):016x}"


def test_what_is_learnt_is_marked_and_the_end_token_is_seen(tokenizer: Any) -> None:
    (shown,) = specimens([CHAT], tokenizer, options())
    assert "".join(piece.text for piece in shown.pieces if piece.learnt) == "naïve – 🙂<|im_end|>"
    assert "".join(piece.text for piece in shown.pieces if not piece.learnt).startswith("<|im_start|>user\nSay 漢字 🙂")


def test_a_character_of_several_tokens_is_one_piece(tokenizer: Any) -> None:
    (shown,) = specimens([Text("🙂", "a:1")], tokenizer, options())
    face = next(piece for piece in shown.pieces if "🙂" in piece.text)
    assert len(face.ids) > 1


def test_a_row_that_teaches_nothing_says_so_and_why(tokenizer: Any) -> None:
    asks = Messages([{"role": "user", "content": "Hello"}], "rows.jsonl:2")
    (shown,) = specimens([asks], tokenizer, options())
    assert shown.dropped
    assert shown.notes == ("dropped: nothing of it is learnt",)
    assert "Hello" in shown.pieces[0].text
    (cut,) = specimens([CHAT], tokenizer, options(8))
    assert cut.notes == ("dropped: nothing of it is learnt, because that lies past maxLength",)


def test_a_row_that_is_cut_or_split_says_so(tokenizer: Any) -> None:
    pair = PromptCompletion("a", "b " * 60, "a:1")
    assert specimens([pair], tokenizer, options(16))[0].notes == ("cut to maxLength: its end is lost",)
    shown = specimens([Text("word " * 60, "a:1")], tokenizer, options(16))[0]
    assert shown.notes[0].startswith("the first of its ")
    assert shown.tokens == 16
