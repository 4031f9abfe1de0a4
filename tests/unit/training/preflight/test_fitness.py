"""A tokenizer, a model and a job: what does not fit is said before Ray starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from finetune_training.contract.spec import RunSpec
from finetune_training.model.headers import context_of
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.preflight.finding import Finding, Level
from finetune_training.preflight.fitness import Facts, check_fitness, facts_of
from tests.tiny import CHATML, VOCABULARY, write_model, write_tokenizer

CONFIG = {"vocab_size": VOCABULARY, "max_position_embeddings": 2048, "eos_token_id": 0, "pad_token_id": 0}


def spec(**dataset: Any) -> RunSpec:
    return RunSpec.model_validate({"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}], **dataset}})


def facts(folder: Path, config: dict[str, Any], **dataset: Any) -> Facts:
    (folder / "config.json").write_text(json.dumps(config))
    return facts_of(folder, spec(**dataset), load_tokenizer(folder, trust_remote_code=False))


def found(given: Facts, check: str) -> Finding:
    return next(each for each in check_fitness(given) if each.check == check)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model")


def add(folder: Path, *tokens: str) -> None:
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save(path)


def test_what_fits_is_said_to_fit(folder: Path) -> None:
    findings = check_fitness(facts(folder, CONFIG))
    assert {each.level for each in findings} == {Level.OK}
    assert found(facts(folder, CONFIG), "vocabulary").message == "512 tokens, 512 embeddings."


def test_more_tokens_than_embeddings_names_both_numbers_and_the_tokens(folder: Path) -> None:
    add(folder, "<new>", "<other>")
    finding = found(facts(folder, CONFIG), "vocabulary")
    assert finding.error is not None
    assert (finding.error.failure.cls, finding.error.failure.reason) == ("User", "TokensWithoutEmbeddings")
    assert "has 514 tokens, and the model has embeddings for 512: none for <new>, <other>." in finding.message
    assert "resize_token_embeddings(514)" in finding.remedy


def test_more_embeddings_than_tokens_are_no_fault(folder: Path) -> None:
    assert found(facts(folder, {**CONFIG, "vocab_size": 1024}), "vocabulary").level is Level.OK


def test_placeholders_for_what_is_not_text_are_no_fault_unless_the_template_writes_them(folder: Path) -> None:
    add(folder, "<image_soft_token>")
    assert found(facts(folder, CONFIG), "vocabulary").level is Level.WARNING
    template = CHATML + "{{ '<image_soft_token>' }}"
    assert found(facts(folder, CONFIG, chatTemplate=template), "vocabulary").level is Level.ERROR


def test_the_weights_own_shape_counts_before_the_config(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    given = facts(folder, {**config, "vocab_size": 100})
    assert given.embeddings == VOCABULARY


def test_weights_that_are_cut_are_told_where_they_are_there(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert not [each for each in check_fitness(facts(folder, config)) if each.check == "weights"]
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    finding = found(facts(folder, config), "weights")
    assert finding.error is not None
    assert finding.error.failure.reason == "WeightsDamaged"
    assert "model.safetensors is cut" in finding.message


def test_a_model_that_is_part_of_another_says_it_in_its_own_section(folder: Path) -> None:
    given = facts(folder, {"text_config": {"vocab_size": 100, "max_position_embeddings": 64}, "vocab_size": 7})
    assert given.embeddings == 100
    assert found(given, "positions").level is Level.ERROR


@pytest.mark.parametrize(
    ("name", "level"), [("pad_token_id", Level.ERROR), ("bos_token_id", Level.WARNING), ("eos_token_id", Level.WARNING)]
)
def test_a_special_token_outside_the_vocabulary(name: str, level: Level, folder: Path) -> None:
    finding = found(facts(folder, {**CONFIG, name: VOCABULARY}), "special tokens")
    assert finding.level is level
    assert f"{name}: 512" in finding.message
    assert found(facts(folder, {**CONFIG, name: [0, VOCABULARY]}), "special tokens").level is level


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, None),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            32768,
        ),
    ],
)
def test_the_context_is_what_the_config_says_with_its_rotary_scaling(config: dict[str, Any], limit: int | None) -> None:
    assert context_of(config) == limit


def test_samples_longer_than_the_context_are_refused_and_a_sliding_window_is_told(folder: Path) -> None:
    finding = found(facts(folder, CONFIG, maxLength=4096), "positions")
    assert finding.error is not None
    assert finding.error.failure.reason == "SamplesTooLong"
    assert "4096 is more than the 2048" in finding.message
    windowed = found(facts(folder, {**CONFIG, "sliding_window": 512}, maxLength=1024), "positions")
    assert (windowed.level, "the last 512 only" in windowed.message) == (Level.OK, True)


@pytest.mark.parametrize(
    ("kind", "level"), [("Text", Level.ERROR), ("PromptCompletion", Level.ERROR), ("Messages", Level.WARNING)]
)
def test_a_tokenizer_without_an_end(kind: str, level: Level, folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert found(facts(folder, CONFIG, kind=kind), "end token").level is level
    assert "token 0 takes its place" in found(facts(folder, CONFIG, kind=kind), "padding").message


def test_a_chat_template_that_is_no_jinja_is_told_by_its_line(folder: Path) -> None:
    finding = found(facts(folder, CONFIG, chatTemplate="{{ messages }}\n{% for %}"), "chat template")
    assert finding.error is not None
    assert finding.error.failure.reason == "ChatTemplateFailed"
    assert ("line 2" in finding.message, finding.remedy) == (True, "Mend spec.dataset.chatTemplate.")


def test_conversations_need_a_chat_template(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "model", chat_template=None)
    finding = found(facts(folder, CONFIG, kind="Messages"), "chat template")
    assert finding.error is not None
    assert finding.error.failure.reason == "NoChatTemplate"
    assert found(facts(folder, CONFIG), "chat template").level is Level.OK


def test_tokens_of_the_template_that_the_tokenizer_splits_are_told_with_their_pieces(folder: Path) -> None:
    template = CHATML.replace("<|im_end|>", "<|eot_id|>")
    finding = found(facts(folder, CONFIG, chatTemplate=template), "tokens of the template")
    assert finding.level is Level.WARNING
    assert "<|eot_id|> is '<' '|'" in finding.message
    assert "im_start" not in finding.message
    assert found(facts(folder, CONFIG), "tokens of the template").level is Level.OK


def test_quantised_weights_are_told(folder: Path) -> None:
    finding = found(facts(folder, {**CONFIG, "quantization_config": {"quant_method": "fp8"}}), "weights")
    assert (finding.level, "fp8" in finding.message) == (Level.WARNING, True)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"x"), lambda path: path.write_bytes(b"\xff" * 64)])
def test_weights_that_are_no_weights_are_left_to_what_loads_them(spoil: Callable[[Path], object], folder: Path) -> None:
    spoil(folder / "model.safetensors")
    assert facts(folder, CONFIG).embeddings == VOCABULARY
