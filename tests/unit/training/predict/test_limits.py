"""A prompt that a model cannot be asked is told with numbers, before torch says that an index is out of range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.model.tokenizer import load_tokenizer, portable
from finetune_training.predict.asking import Asking, asked
from finetune_training.predict.generate import Sampling, load_language_model
from finetune_training.predict.limits import Limits, limits_of
from finetune_training.predict.promptfiles import open_prompts
from finetune_training.predict.prompts import encode
from tests.tiny import VOCABULARY, write_model, write_tokenizer

SHORT = Sampling(max_new_tokens=4)


def add(folder: Path, *tokens: str) -> Path:
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save(path)
    return folder


def test_a_token_without_an_embedding_is_named_with_both_numbers(tmp_path: Path) -> None:
    model = load_language_model(add(write_model(tmp_path / "model"), "<new>"))
    assert model.answer(["Love"], sampling=SHORT)
    with pytest.raises(FinetuneError) as caught:
        model.answer(["Love", "Love <new>"], sampling=SHORT)
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "TokensWithoutEmbeddings")
    assert "'<new>'" in failure.message
    assert f"the tokenizer has {VOCABULARY + 1} tokens, the model {VOCABULARY}" in failure.message


@pytest.mark.parametrize("pad", ["<pad>", None])
def test_prompts_are_padded_with_a_token_that_the_model_knows(tmp_path: Path, pad: str | None) -> None:
    """Llama 2 with a <pad> that somebody added, and a tokenizer that names none at all."""
    folder = add(write_model(tmp_path / "model", initializer_range=0.4), "<pad>")
    prompts = ["Love", "Shall I compare thee to a summer's day?"]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    said = load_language_model(folder).answer(prompts, sampling=SHORT)
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": pad, "eos_token": None}))
    assert load_language_model(folder).answer(prompts, sampling=SHORT) == said


def test_a_stretched_context_takes_longer_prompts(tmp_path: Path) -> None:
    scaled: dict[str, Any] = {"rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    model = load_language_model(write_model(tmp_path / "model", max_position_embeddings=64, **scaled))
    assert model.limits == Limits(VOCABULARY, 256) == limits_of(tmp_path / "model")
    assert model.answer(["Love? " * 40], sampling=SHORT, chat=False)


def test_the_prompt_that_is_too_long_is_shown_by_its_beginning(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path), trust_remote_code=False)
    said = r"'Love.*…' has \d+ tokens, and 4 new ones are asked for: this model takes 64"
    with pytest.raises(FinetuneError, match=said) as caught:
        Limits(VOCABULARY, 64).check(encode(tokenizer, "Love? " * 40, chat=False), tokenizer, new=4)
    assert caught.value.failure.reason == "PromptTooLong"
    with pytest.raises(FinetuneError, match="empty"):
        Limits().check([], tokenizer, new=4)
    Limits().check([VOCABULARY + 7] * 10_000, tokenizer, new=4)  # nobody says how much the model takes


@pytest.mark.parametrize("prompt", ["half \ud800", [{"role": "user", "content": "half \ud800"}]])
def test_half_a_character_is_no_prompt(tmp_path: Path, prompt: Any) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path), trust_remote_code=False)
    with pytest.raises(FinetuneError) as caught:
        encode(tokenizer, prompt, chat=True)
    assert (caught.value.failure.cls, caught.value.failure.reason) == (FailureClass.DATA, "NotUnicode")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "half \ud800"}, "NotUnicode"),
        ({"prompt": "whole", "note": "half \ud800"}, "NotUnicode"),
        ({"prompt": "Love? " * 100}, "PromptTooLong"),
        ({"prompt": "<new>"}, "TokensWithoutEmbeddings"),
        ({"prompt": " "}, "EmptyPrompt"),
        ({"messages": [{"role": "user", "content": "whole"}]}, "ColumnMissing"),
    ],
)
def test_a_row_that_cannot_be_asked_is_told_by_its_place(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    folder = add(write_tokenizer(tmp_path / "model"), "<new>")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ({"prompt": "Love"}, row)))
    files = open_prompts(str(tmp_path / "rows.jsonl"))
    read = pa.table({"file": [0, 0], "number": [1, 2], "row": (tmp_path / "rows.jsonl").read_text().splitlines()})
    with pytest.raises(FinetuneError) as caught:
        asked(read, files, portable(folder, trust_remote_code=False), Asking(True, Limits(VOCABULARY, 128), 8))
    assert caught.value.failure.reason == reason
    assert f"{tmp_path}/rows.jsonl:2" in caught.value.failure.message
