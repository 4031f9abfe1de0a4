"""The base model and its tokenizer, from a local folder.

In: a folder (fetch.py) and the spec. Out: a transformers model in the run's precision. Anything that transformers cannot load
is the user's to know: which file, which class, what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from finetune_training.chat.forms import chosen
from finetune_training.contract.failure import FailureClass, classify
from finetune_training.contract.spec import Precision, RunSpec
from finetune_training.model import tokenizer as tokenizers
from finetune_training.model.artifact import Origin, complete_adapter
from finetune_training.model.export import write_model
from finetune_training.model.refusals import UNLOADABLE, not_loadable

ATTENTION = {"SDPA": "sdpa", "Eager": "eager", "FlashAttention2": "flash_attention_2"}
DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}
FLATTENED = ("flash_attention_2", "flash_attention_3")


def load_tokenizer(folder: Path, spec: RunSpec) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, with a padding token and the run's chat template: it goes with the trained weights."""
    tokenizer: PreTrainedTokenizerBase = tokenizers.load_tokenizer(
        folder, trust_remote_code=spec.model.trust_remote_code
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dataset = spec.dataset
    tokenizer.chat_template = chosen(tokenizer.chat_template, dataset.chat_template, dataset.chat_template_args)
    return tokenizer


def load_model(folder: Path, spec: RunSpec) -> PreTrainedModel:
    """The base model in the run's precision. Under ZeRO-3 the TrainingArguments must exist before: they make
    transformers load in shards."""
    options: dict[str, Any] = {
        "dtype": DTYPES[spec.training.precision],
        "trust_remote_code": spec.model.trust_remote_code,
    }
    if spec.model.attention != "Auto":
        options["attn_implementation"] = ATTENTION[spec.model.attention]
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, **options)
    except UNLOADABLE as error:
        if classify(error).cls is not FailureClass.UNKNOWN:  # a full disk, memory, a lost peer
            raise
        raise not_loadable(spec, error, folder) from error
    model.config.use_cache = False
    return model


def save_weights(trainer: Any, folder: Path, origin: Origin) -> None:
    """Collective. What was trained, as it is used without us; written by rank 0.

    Under ZeRO-3 only the trained parameters are gathered: of a LoRA run the adapter, never the base model.
    """
    # ZeRO-3 may have fetched parameters of a next step that never comes, and lets nobody else gather them then.
    trainer.model_wrapped.empty_partition_cache()
    model = trainer.model
    if not isinstance(model, PeftModel):
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.args.should_save:
            model.config.use_cache = True  # off for training only
            write_model(model, folder, origin, weights=weights)
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with deepspeed.zero.GatheredParameters(trained):
        if trainer.args.should_save:
            model.save_pretrained(str(folder), save_embedding_layers=False)
            complete_adapter(folder, origin)


def origin_of(base: Path, spec: RunSpec) -> Origin:
    """What an artifact of a run has from the base model in `base`, and from the run."""
    dataset = spec.dataset
    return Origin(base, spec.model.trust_remote_code, dataset.chat_template, dataset.chat_template_args)


def flattens(model: PreTrainedModel) -> bool:
    """Whether this attention implementation wants all documents of a batch in one row (varlen kernels)."""
    return getattr(model.config, "_attn_implementation", "") in FLATTENED
