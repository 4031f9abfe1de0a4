"""Which of a folder's files make up a model, and which of them an artifact has too.

In: the names of the files in a folder, on a hub, in a store or on this machine. Out: those that transformers needs, the
weights in one format only (safetensors before .bin), or the reason why this folder is no model. Names are enough, so a
wrong URI is found before a byte of weights is moved.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum

from finetune_training.contract.failure import user_error

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
README = "README.md"
"""A whole model's says under which licence it is."""
_SHARD = r"-\d{5}-of-\d{5}"
_WEIGHTS = (
    r"model\.safetensors",
    rf"model{_SHARD}\.safetensors",
    r"pytorch_model\.bin",
    rf"pytorch_model{_SHARD}\.bin",
)
"""In the order in which transformers looks for them; the first that is there is taken, the others are duplicates."""
_INDEXES = {_WEIGHTS[1]: "model.safetensors.index.json", _WEIGHTS[3]: "pytorch_model.bin.index.json"}
_ADAPTER_WEIGHTS = (r"adapter_model\.safetensors", r"adapter_model\.bin")
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
"""The file with the chat template, and the folder of those that have names."""
RULE = 2
"""Raised when `choose_files` chooses other files than before: what is fetched already is fetched again."""
_TERMS = r"(?i:LICEN[CS]E|NOTICE|COPYING|COPYRIGHT|USE_POLICY|ACCEPTABLE_USE|PROHIBITED_USE|TERMS)[^/]*"
"""What a model may be used for."""
_TEMPLATES = rf"{re.escape(TEMPLATE)}|chat_template\.json|{TEMPLATES}/[^/]+\.jinja"
_SMALL = re.compile(rf"[^/]+\.(json|txt|model(\.v\d+\w*)?|jinja|tiktoken)|{_TERMS}|{_TEMPLATES}")
_READ = re.compile(
    rf"{_TERMS}|{_TEMPLATES}"
    r"|tokenizer[^/]*\.json|special_tokens_map\.json|added_tokens\.json|tekken\.json"
    r"|([^/]*[-_.])?(vocab|merges)[^/]*\.(json|txt)|[^/]+\.(model(\.v\d+\w*)?|tiktoken)"
    r"|generation_config\.json|([^/]*_)?(preprocessor|processor|audio_tokenizer)_config\.json"
)
"""What transformers, vLLM or llama.cpp's converter read of a folder besides its config and weights."""
_NOT_THE_RUNS = re.compile(
    r"(trainer_state|training_args|([^/]*_)?results|hf_quant_config|quant(ize)?_config|quantization_config|params|modules)\.json"
)
"""How the base was trained or quantised, and Mistral's own form of a config for weights that are not here: read beside the run's
weights, they would be wrong."""
_TOKENIZER = re.compile(r"tokenizer\.json|vocab\.(json|txt)|tekken\.json|[^/]+\.(model|tiktoken)")


class Parts(StrEnum):
    """What is wanted. TOKENIZER_OR_ADAPTER: what is small of a folder that may be either, a model (tokenizer and config)
    or a LoRA adapter (all of it), whose base is another model."""

    MODEL = "Model"
    TOKENIZER = "Tokenizer"
    TOKENIZER_OR_ADAPTER = "TokenizerOrAdapter"


def choose_files(names: list[str], *, uri: str, parts: Parts, remote_code: bool) -> list[str]:
    """The files among `names` that transformers needs. Raises a User error for a folder that is no model."""
    if ADAPTER_CONFIG in names and CONFIG not in names:
        if parts is not Parts.TOKENIZER_OR_ADAPTER:
            raise user_error(
                "ModelIsAdapter",
                f"{uri} is a LoRA adapter, not a whole model: it has {ADAPTER_CONFIG} and no {CONFIG}.",
                "Name the base model, or export the adapter merged (output.format: Merged) and name that.",
            )
        weights = _weights(names, _ADAPTER_WEIGHTS, uri)
    else:
        _check(names, uri, remote_code)
        weights = _weights(names, _WEIGHTS, uri) if parts is Parts.MODEL else []
    small = [name for name in names if _SMALL.fullmatch(name) and not name.endswith(".index.json")]
    code = [name for name in names if remote_code and name.endswith(".py") and "/" not in name]
    card = [name for name in names if name == README and CONFIG in names]
    return sorted({*small, *code, *card, *weights})


def taken_over(names: list[str], *, vocabulary: Collection[str], remote_code: bool) -> list[str]:
    """The files of a base model among `names` that an artifact has too, but for config, weights and card. `vocabulary`: those
    that the tokenizer's class names. Code that came with the model may read any other small one."""
    read = [name for name in names if _READ.fullmatch(name) or name in vocabulary]
    code = [name for name in names if name.endswith(".py") and "/" not in name]
    more = [*code, *(name for name in names if _SMALL.fullmatch(name))] if remote_code else []
    return sorted({name for name in (*read, *more) if not _left(name)})


def _left(name: str) -> bool:
    return name.startswith(".") or name.endswith(".index.json") or bool(_NOT_THE_RUNS.fullmatch(name))


def is_template(name: str) -> bool:
    """Whether `name` is a file in which a loader looks for a chat template."""
    return bool(re.fullmatch(_TEMPLATES, name))


def is_weights(name: str) -> bool:
    """Whether `name` is a file of weights, or the index of several, that transformers or PEFT would load."""
    indexes = tuple(re.escape(index) for index in _INDEXES.values())
    return any(re.fullmatch(pattern, name) for pattern in (*_WEIGHTS, *_ADAPTER_WEIGHTS, *indexes))


def loaded(names: list[str]) -> list[str]:
    """The files of weights among `names` that transformers and PEFT would load, without the index of several."""
    found = []
    for patterns in (_WEIGHTS, _ADAPTER_WEIGHTS):
        kinds = ([name for name in names if re.fullmatch(pattern, name)] for pattern in patterns)
        found += next((kind for kind in kinds if kind), [])
    return sorted(found)


def index_of(names: list[str]) -> str | None:
    """The index of the weights that would be loaded, where they are several files and it is there."""
    kinds = (pattern for pattern in _WEIGHTS if any(re.fullmatch(pattern, name) for name in names))
    index = _INDEXES.get(next(kinds, ""))
    return index if index in names else None


def _check(names: list[str], uri: str, remote_code: bool) -> None:
    if CONFIG not in names:
        shown = ", ".join(sorted(names)[:8]) or "nothing"
        raise user_error(
            "ModelWithoutConfig",
            f"{uri} is no model folder: it has no {CONFIG}.",
            f"Name the folder with {CONFIG}, weights and tokenizer. It has: {shown}{', …' if len(names) > 8 else ''}.",
        )
    if not any(_TOKENIZER.fullmatch(name) or (remote_code and name.startswith("tokenization_")) for name in names):
        raise user_error(
            "ModelWithoutTokenizer",
            f"{uri} has no tokenizer: no tokenizer.json, vocabulary or *.model file.",
            "Put the tokenizer's files into the same folder (AutoTokenizer.save_pretrained writes them).",
        )


def _weights(names: list[str], patterns: tuple[str, ...], uri: str) -> list[str]:
    for pattern in patterns:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            index = _INDEXES.get(pattern)
            return [*found, index] if index in names else found
    others = [name for name in names if name.endswith((".safetensors", ".bin", ".gguf", ".h5", ".msgpack", ".pth"))]
    raise user_error(
        "ModelWithoutWeights",
        f"{uri} has no weights that transformers loads: no model*.safetensors and no pytorch_model*.bin.",
        f"Convert what it has ({', '.join(others[:4])}) by save_pretrained." if others else "Name another folder.",
    )
