"""What LoRA adapts of a model.

In: a model's folder, of which the config is enough, and the spec. Out: PEFT's config; the model as an outline without a byte of
weights: its own class on torch's meta device.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_training.contract.spec import ALL_LINEAR, MethodType, RunSpec
from finetune_training.model.refusals import UNLOADABLE, not_loadable


def lora_config(spec: RunSpec) -> LoraConfig | None:
    """PEFT's config, None for a Full run."""
    if spec.method.type is MethodType.FULL:
        return None
    lora = spec.method.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets(spec),
        bias="none",
        task_type="CAUSAL_LM",
    )


def targets(spec: RunSpec) -> str | list[str]:
    """A text that is a plain name means that name. For PEFT any text is a regular expression of the whole path, which a name
    alone never is."""
    said = spec.method.lora.target_modules
    return [said] if isinstance(said, str) and said.lower() != ALL_LINEAR and re.fullmatch(r"[\w.]+", said) else said


def outline(folder: Path, spec: RunSpec) -> PreTrainedModel:
    """The model in `folder` without a byte of weights. Raises a User error where transformers has no such model or cannot read
    its config; other errors may be those of an outline alone: code that came with the model may want weights, or a package that
    only the ranks have."""
    trust = spec.model.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except UNLOADABLE as error:
        raise not_loadable(spec, error, folder) from error
    try:
        with torch.device("meta"):
            # Whatever attention the config names may need a package or a GPU, and adapters do not depend on it.
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust, attn_implementation="eager"
            )
    except (ValueError, KeyError) as error:
        if getattr(config, "auto_map", None):
            raise
        raise not_loadable(spec, error, folder) from error
    return model


def empty_adapter(folder: Path, spec: RunSpec) -> PeftModel:
    """The model of a LoRA run as an outline."""
    model = outline(folder, spec)
    with torch.device("meta"):
        return get_peft_model(model, lora_config(spec))
