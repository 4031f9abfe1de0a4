"""An artifact behaves as `finetune predict` shows it, wherever it is loaded, and what training has not changed is the base's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from finetune_training.model import export
from finetune_training.model.artifact import Origin, complete_adapter, license_of
from finetune_training.model.bothversions import config_for_both, tokenizer_for_both
from finetune_training.model.export import write_model
from tests.tiny import CHATML, EOS
from tests.tiny import write_model as write_tiny

CONFIG_OF_4 = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    "vocab_size": 512, "bos_token_id": None, "eos_token_id": 0, "rope_theta": 100000.0, "rope_scaling": None,
    "tie_word_embeddings": True, "torch_dtype": "float32", "transformers_version": "4.46.0", "hidden_act": "silu",
    "a_key_that_nobody_knows": 1,
}  # fmt: skip
TEMPLATE = CHATML.replace("<|im_end|>' + '\n'", "<|im_end|>\n'")
IM_END = 2


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """As most models on hubs are: written by transformers 4, by hand, or both."""
    folder = write_tiny(tmp_path / "base")
    _write(folder / "config.json", CONFIG_OF_4)
    _write(folder / "generation_config.json", {"eos_token_id": 0, "temperature": 0.6, "top_p": 0.9})
    (folder / "LICENSE").write_text("Do good.")
    (folder / "NOTICE.txt").write_text("Made by somebody.")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: good\nlicense_link: LICENSE\n---\n# A base\n")
    for name in ("picture.png", ".hidden.json"):
        (folder / name).write_bytes(b"not for others")
    return folder


def _write(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=4))  # not as we would


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def whole(base: Path, out: Path, *, template: str = "", **changes: Any) -> Path:
    write_model(AutoModelForCausalLM.from_pretrained(base, **changes), out, Origin(base, False, template))
    return out


def test_what_training_has_not_changed_is_the_bases_byte_for_byte(base: Path, tmp_path: Path) -> None:
    _write(base / "tokenizer_config.json", {**_read(base / "tokenizer_config.json"), "padding_side": "left"})
    _write(base / "generation_config.json", {"eos_token_id": [0, IM_END], "pad_token_id": 0, "temperature": 0.6})
    out = whole(base, tmp_path / "out")
    expected = {path.name for path in base.iterdir()} - {"README.md", "picture.png", ".hidden.json"} | {
        "README-base.md"
    }
    assert {path.name for path in out.iterdir()} == expected
    for name in expected - {"model.safetensors", "README-base.md"}:
        assert (out / name).read_bytes() == (base / name).read_bytes(), name
    assert (out / "README-base.md").read_bytes() == (base / "README.md").read_bytes()


def test_a_precision_that_training_has_changed_is_said_in_the_bases_words(base: Path, tmp_path: Path) -> None:
    config = _read(whole(base, tmp_path / "out", dtype=torch.bfloat16) / "config.json")
    assert config == {**CONFIG_OF_4, "torch_dtype": "bfloat16"}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype is torch.bfloat16


def test_a_base_of_transformers_5_is_read_right_by_4_too(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base", rope_parameters={"rope_type": "default", "rope_theta": 100000.0})
    assert "rope_theta" not in _read(base / "config.json")
    settings = _read(base / "tokenizer_config.json")
    _write(base / "tokenizer_config.json", {**settings, "tokenizer_class": "TokenizersBackend"})
    out = whole(base, tmp_path / "out")
    assert _read(out / "config.json") == {**_read(base / "config.json"), "rope_theta": 100000.0}
    assert _read(out / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoConfig.from_pretrained(out).rope_parameters == AutoConfig.from_pretrained(base).rope_parameters


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 1e6}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512, "rope_theta": 5e5,
}  # fmt: skip
LAYERS = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    ("model_type", "rope", "old"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 7e4}, {"rope_theta": 7e4}),
        ("llama", LLAMA3, {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}}),
        ("qwen3", YARN, {"rope_theta": 1e6, "rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}}),
        ("phi", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}, {"partial_rotary_factor": 0.4}),
        (
            "gpt_neox", {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.25},
            {"rotary_emb_base": 2e4, "rotary_pct": 0.25},
        ),
        (
            "gemma3_text", LAYERS,
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
    ],
)  # fmt: skip
def test_the_keys_of_4_beside_those_of_5_say_the_same_to_5(
    model_type: str, rope: dict[str, Any], old: dict[str, Any], tmp_path: Path
) -> None:
    AutoConfig.for_model(model_type, rope_parameters=rope).save_pretrained(tmp_path)
    before, config = AutoConfig.from_pretrained(tmp_path), _read(tmp_path / "config.json")
    both = config_for_both(config)
    assert {name: both.get(name) for name in old} == old
    assert {name: both[name] for name in config} == config
    _write(tmp_path / "config.json", both)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == before.rope_parameters


def test_special_tokens_in_a_list_have_their_old_name() -> None:
    told = tokenizer_for_both({"extra_special_tokens": ["<a>"], "tokenizer_class": "Qwen2Tokenizer"})
    assert told == {"additional_special_tokens": ["<a>"], "tokenizer_class": "Qwen2Tokenizer"}
    named = {"extra_special_tokens": {"image_token": "<image>"}}
    assert tokenizer_for_both(named) == named


def test_a_model_ends_where_predict_ends_and_keeps_what_else_its_base_says(base: Path, tmp_path: Path) -> None:
    out = whole(base, tmp_path / "out")
    assert _read(out / "generation_config.json") == {
        "eos_token_id": [0, IM_END], "temperature": 0.6, "top_p": 0.9, "pad_token_id": 0,
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", EOS)
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == [0, IM_END]


def test_a_base_without_these_settings_has_them_of_its_config(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").unlink()
    (base / "chat_template.jinja").unlink()
    settings = _read(base / "tokenizer_config.json")
    del settings["pad_token"]
    _write(base / "tokenizer_config.json", settings)
    out = whole(base, tmp_path / "out")
    assert _read(out / "generation_config.json") == {"eos_token_id": 0, "pad_token_id": 0}
    assert AutoTokenizer.from_pretrained(out).pad_token == EOS


def test_the_runs_chat_template_is_wherever_a_template_is_looked_for(base: Path, tmp_path: Path) -> None:
    (base / "chat_template.jinja").unlink()
    settings = {**_read(base / "tokenizer_config.json"), "chat_template": "{{ messages }}"}
    _write(base / "tokenizer_config.json", settings)
    out = whole(base, tmp_path / "out", template=TEMPLATE)
    assert (out / "chat_template.jinja").read_text() == TEMPLATE
    assert _read(out / "tokenizer_config.json")["chat_template"] == TEMPLATE
    assert AutoTokenizer.from_pretrained(out).chat_template == TEMPLATE
    assert _read(out / "generation_config.json")["eos_token_id"] == [0, IM_END]


def test_an_adapter_has_all_but_what_would_make_it_a_model(base: Path, tmp_path: Path) -> None:
    settings = _read(base / "tokenizer_config.json")
    del settings["tokenizer_class"]
    _write(base / "tokenizer_config.json", settings)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "README.md").write_text("PEFT's")
    complete_adapter(tmp_path / "adapter", Origin(base, False))
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "LICENSE", "NOTICE.txt", "README-base.md", "chat_template.jinja", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert GenerationConfig.from_pretrained(tmp_path / "adapter").eos_token_id == [0, IM_END]
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter")("Love")["input_ids"]


def test_tied_weights_are_written_once_also_where_a_rank_has_gathered_both(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    gathered = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert "lm_head.weight" in gathered
    write_model(model, tmp_path / "out", Origin(base, False), weights=gathered)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (it is no dict)


def test_a_large_model_is_in_shards_with_an_index(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export.SHARD == "5GB"
    monkeypatch.setattr(export, "SHARD", "200KB")
    out = whole(base, tmp_path / "out")
    index = _read(out / "model.safetensors.index.json")
    assert set(index["weight_map"].values()) == {path.name for path in out.glob("model-*-of-*.safetensors")}
    assert len(set(index["weight_map"].values())) > 1
    assert AutoModelForCausalLM.from_pretrained(out)


def test_a_base_that_only_sees_is_described_as_what_was_made_of_it(base: Path, tmp_path: Path) -> None:
    _write(base / "config.json", {**CONFIG_OF_4, "architectures": ["LlamaThatSeesForConditionalGeneration"]})
    config = _read(whole(base, tmp_path / "out") / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["rope_theta"], config["rope_parameters"]["rope_theta"]) == (100000.0, 100000.0)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (None, {}),
        ("# Nothing\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n", {"license": "apache-2.0"}),
        ("---\n: : [\n---\n", {}),
    ],
)
def test_the_licence_is_read_from_the_bases_card(card: str | None, expected: dict[str, str], tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert license_of(tmp_path) == expected


def test_a_base_whose_sampling_contradicts_itself_can_be_written(base: Path, tmp_path: Path) -> None:
    """transformers 5 refuses to save a temperature without sampling, which many a base has."""
    model = AutoModelForCausalLM.from_pretrained(base)
    assert model.generation_config.temperature == 0.6
    write_model(model, tmp_path / "out", Origin(base, False))
    assert _read(tmp_path / "out" / "generation_config.json")["temperature"] == 0.6
