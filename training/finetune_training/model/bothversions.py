"""Settings that transformers 5 has written → the same, with the keys by which transformers 4 reads them beside.

In: a `config.json` or a `tokenizer_config.json`. Out: one that both read alike. Transformers 4 passes over what it does not know
and takes its own default instead, without a word: a rotary base of 10,000 for a model that was trained with 100,000. What is
there already is never changed.
"""

from __future__ import annotations

from typing import Any, Final

Settings = dict[str, Any]
_ROPE: Final = "rope_parameters"
_FULL, _SLIDING = "full_attention", "sliding_attention"
_LOCAL_BASES: Final = {"gemma3": "rope_local_base_freq", "gemma3_text": "rope_local_base_freq"}
"""Of models with another base in some layers: by the model type, its name in transformers 4."""
_BASES: Final = {"gpt_neox": "rotary_emb_base"}
_SHARES: Final = {"gpt_neox": "rotary_pct"}
"""Where transformers 4 has a name of the model's own."""


def config_for_both(config: Settings) -> Settings:
    """Also of the text model in it."""
    after = {name: config_for_both(value) if name == "text_config" else value for name, value in config.items()}
    rope = config.get(_ROPE)
    if isinstance(rope, dict):
        after = {**_rope_of_4(rope, str(config.get("model_type", ""))), **after}
    return after


def _rope_of_4(rope: Settings, model_type: str) -> Settings:
    """What `rope_parameters` says, as transformers 4 wants it: base and scaling apart."""
    if isinstance(rope.get(_FULL), dict):
        local = rope.get(_SLIDING) or {}
        name = _LOCAL_BASES.get(model_type)
        found = {name: local["rope_theta"]} if name and "rope_theta" in local else {}
        return found | _rope_of_4(rope[_FULL], model_type)
    found = {}
    if rope.get("rope_theta") is not None:
        found[_BASES.get(model_type, "rope_theta")] = rope["rope_theta"]
    if rope.get("partial_rotary_factor") is not None:
        found[_SHARES.get(model_type, "partial_rotary_factor")] = rope["partial_rotary_factor"]
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = {name: value for name, value in rope.items() if name not in _APART}
    return found


_APART: Final = ("rope_theta", "partial_rotary_factor")


def tokenizer_for_both(config: Settings) -> Settings:
    """The class by its old name, which both know, and a list of special tokens under its old name."""
    after = dict(config)
    if after.get("tokenizer_class") == "TokenizersBackend":
        after["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(after.get("extra_special_tokens"), list) and "additional_special_tokens" not in after:
        after["additional_special_tokens"] = after.pop("extra_special_tokens")
    return after
