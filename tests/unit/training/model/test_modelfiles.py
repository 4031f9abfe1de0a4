"""One rule decides what a model folder is, for hubs, stores and local folders alike."""

from __future__ import annotations

import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.model.modelfiles import Parts, choose_files, taken_over

SMALL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
BIN_SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]


def choose(names: list[str], *, parts: Parts = Parts.MODEL, remote_code: bool = False) -> list[str]:
    return choose_files(names, uri="hf://someone/model", parts=parts, remote_code=remote_code)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.safetensors", "consolidated.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (
            [*SHARDS, "model.safetensors.index.json", *BIN_SHARDS, "pytorch_model.bin.index.json"],
            [*SHARDS, "model.safetensors.index.json"],
        ),
        ([*BIN_SHARDS, "pytorch_model.bin.index.json"], [*BIN_SHARDS, "pytorch_model.bin.index.json"]),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"], ["pytorch_model.bin"]),
    ],
)
def test_weights_come_in_one_format_only(weights: list[str], expected: list[str]) -> None:
    assert choose([*SMALL, *weights]) == sorted([*SMALL, *expected])


def test_pictures_other_formats_and_folders_stay_where_they_are() -> None:
    others = ["loss.png", ".gitattributes", "onnx/model.onnx", "original/params.json", "model.Q4.gguf"]
    assert choose([*SMALL, "model.safetensors", *others]) == sorted([*SMALL, "model.safetensors"])


def test_what_a_model_may_be_used_for_comes_along() -> None:
    prose = ["LICENSE.txt", "NOTICE", "README.md", "USE_POLICY.md", "LICENCE", "Notice.md"]
    assert choose([*SMALL, "model.safetensors", *prose, "USAGE.md"]) == sorted([*SMALL, "model.safetensors", *prose])


def test_code_comes_along_only_when_it_is_trusted() -> None:
    names = [*SMALL, "model.safetensors", "modeling_new.py", "tools/convert.py"]
    assert "modeling_new.py" not in choose(names)
    assert "modeling_new.py" in choose(names, remote_code=True)
    assert "tools/convert.py" not in choose(names, remote_code=True)


def test_chat_templates_with_names_come_along_with_any_part() -> None:
    named = ["additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja"]
    for parts in (Parts.MODEL, Parts.TOKENIZER):
        chosen = choose([*SMALL, "model.safetensors", *named, "additional_chat_templates/notes.md"], parts=parts)
        assert [name for name in chosen if "/" in name] == sorted(named)


READ = [
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v3", "tekken.json", "vocab.json",
    "vocab.txt", "merges.txt", "qwen.tiktoken", "spiece.model", "sentencepiece.bpe.model", "added_tokens.json",
    "special_tokens_map.json", "tokenizer.4.0.0.json", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/tool_use.jinja", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "LICENSE", "LICENSE.txt", "LICENSE-MODEL", "NOTICE",
    "Notice", "USE_POLICY.md", "COPYING", "dict.txt",
]  # fmt: skip
UNREAD = [
    "README.md", ".gitattributes", ".gitignore", ".hidden.json", "onnx/model.onnx", "original/params.json",
    "original/tokenizer.model", "params.json", "consolidated.safetensors", "trainer_state.json", "training_args.bin",
    "training_args.json", "all_results.json", "eval_results.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json", "hf_quant_config.json",
    "quantize_config.json", "modules.json", "1_Pooling/config.json", "model.Q4.gguf", "loss.png", "run.log",
    "requirements.txt", "events.out.tfevents.1", "config_sentence_transformers.json",
]  # fmt: skip
CODE = ["modeling_new.py", "tokenization_new.py"]
OF_CODE = ["new_settings.json", "assistant.txt"]


@pytest.mark.parametrize("remote_code", [False, True])
def test_an_artifact_has_what_loaders_read_and_nothing_that_would_mislead_them(*, remote_code: bool) -> None:
    names = [*READ, *UNREAD, *CODE, *OF_CODE, "tools/convert.py"]
    found = taken_over(names, vocabulary={"dict.txt"}, remote_code=remote_code)
    if not remote_code:
        assert found == sorted(READ)
        return
    assert {*READ, *CODE, *OF_CODE} <= set(found)
    assert {*found} & {*UNREAD} == {"requirements.txt", "config_sentence_transformers.json"}  # its code may read any


def test_what_an_artifact_has_is_fetched() -> None:
    assert {*READ} <= {*choose(["config.json", "model.safetensors", *READ])}


def test_a_tokenizer_needs_no_weights() -> None:
    assert choose([*SMALL, "model.safetensors"], parts=Parts.TOKENIZER) == sorted(SMALL)


@pytest.mark.parametrize(
    "tokenizer", [["vocab.json", "merges.txt"], ["tokenizer.model"], ["vocab.txt"], ["q.tiktoken"]]
)
def test_every_kind_of_tokenizer_is_one(tokenizer: list[str]) -> None:
    assert set(tokenizer) <= set(choose(["config.json", "model.safetensors", *tokenizer]))


def test_an_adapter_is_a_model_only_where_its_base_is_known() -> None:
    names = ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert choose(names, parts=Parts.TOKENIZER_OR_ADAPTER) == ["adapter_config.json", "adapter_model.safetensors"]
    assert choose([*SMALL, "model.safetensors"], parts=Parts.TOKENIZER_OR_ADAPTER) == sorted(SMALL)
    assert refused(names) == ("ModelIsAdapter", "hf://someone/model is a LoRA adapter")


@pytest.mark.parametrize(
    ("names", "reason", "says"),
    [
        (["README.md"], "ModelWithoutConfig", "it has no config.json"),
        (["config.json", "model.safetensors"], "ModelWithoutTokenizer", "has no tokenizer"),
        ([*SMALL, "model.Q4_1.gguf"], "ModelWithoutWeights", "no weights that transformers loads"),
        (SMALL, "ModelWithoutWeights", "no weights that transformers loads"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_by_name(names: list[str], reason: str, says: str) -> None:
    found, message = refused(names, whole=True)
    assert found == reason
    assert says in message


def refused(names: list[str], *, whole: bool = False) -> tuple[str, str]:
    with pytest.raises(FinetuneError) as caught:
        choose(names)
    failure = caught.value.failure
    assert failure.cls is FailureClass.USER
    assert failure.remedy
    return failure.reason, failure.message if whole else failure.message.partition(",")[0]
