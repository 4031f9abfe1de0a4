"""What transformers, PEFT, TRL, DeepSpeed and torch refuse, told as what it is: a field of the job.

In: the spec, and an exception of one of these libraries. Out: a User error that names the field, or nothing: then it is a bug,
of theirs or of ours. What can be known before Ray starts is checked there (preflight/); these are the errors that
only the loaded model, the engine or the device raises. By texts, because these libraries raise ValueError for everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from finetune_training.contract.failure import FailureClass, FinetuneError, classify, user_error
from finetune_training.contract.spec import RunSpec
from finetune_training.model.headers import damaged, incomplete

_LENGTH = 400
UNLOADABLE: Final = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    ImportError,
    RuntimeError,
    AssertionError,
    EOFError,
    UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises of a folder that it cannot make a model of, or of a config with values that it cannot use."""
_ENGINE = re.compile(r"deepspeed|DeepSpeedConfig|zero_optimization|ZeRO", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """`says`: part of the library's text (a regular expression). `field`: below `spec`, the one that it is about."""

    says: str
    field: str
    remedy: str


REFUSALS = (
    Refusal(
        r"(?i)flash.?att|FlashAttention",
        "model.attention",
        "FlashAttention2 wants its package, a GPU that it knows and precision BF16: use SDPA, or Auto.",
    ),
    Refusal(
        r"support an attention implementation|attn_implementation=|setting its attention implementation",
        "model.attention",
        "Use Eager, or Auto.",
    ),
    Refusal(
        r"support (activation|gradient) checkpointing|compatible with gradient checkpointing",
        "training.gradientCheckpointing",
        "Set it to false for this model.",
    ),
    Refusal(r"setup doesn't support bf16", "training.precision", "This machine has no BF16: set FP32."),
    Refusal(
        r"purely quantized|is quantized with|No GPU found.*quantiz",
        "model.uri",
        "The model's weights are quantised: name the same model in BF16.",
    ),
    Refusal(
        r"PEFT adapter to `lm_head`|[Tt]arget modules? .*not (found|supported)|No modules were targeted|"
        r"does not support targeting",
        "method.lora.targetModules",
        "Name linear layers of the model other than its output layer, or all-linear.",
    ),
    Refusal(
        r"ignore_mismatched_sizes",
        "model.uri",
        "The weights have another shape than config.json says: mend that folder.",
    ),
    Refusal(r"[Pp]adding_idx must be within", "model.uri", "Mend pad_token_id in the model's config.json."),
    Refusal(
        r"index out of range in self|vectorized_gather_kernel|indexSelect.*Assertion",
        "model.uri",
        "The tokenizer has tokens, or dataset.maxLength positions, for which the model has no embeddings.",
    ),
    Refusal(r"Seed must be between", "training.seed", "Take a number from 0 to 4294967295."),
)
"""In the order in which they are tried."""


@contextmanager
def by_field(spec: RunSpec) -> Iterator[None]:
    """What a library refuses in this block is a User error about its field."""
    try:
        yield
    except FinetuneError:
        raise
    except Exception as error:
        if (refused := refusal(error, spec)) is None:
            raise
        raise refused from error


def refusal(error: Exception, spec: RunSpec) -> FinetuneError | None:
    """The User error that `error` is, if it is about a field."""
    if classify(error).cls is not FailureClass.UNKNOWN:
        return None  # memory, a lost peer, a full disk
    text = " ".join(str(error).split())
    if type(error).__name__ == "AcceleratorError" or text.startswith("CUDA"):
        return None  # the device's, and its text names much
    for name in (*spec.training.extra, *_names(spec.deepspeed.config)):
        if re.search(rf"\b{re.escape(name)}\b", text):
            return _invalid(
                f"training.extra.{name}" if name in spec.training.extra else f"deepspeed.config ({name})", text
            )
    for each in REFUSALS:
        if re.search(each.says, text):
            message = f"spec.{each.field} cannot be used: {text[:_LENGTH]}"
            return user_error("FieldRefused", message, each.remedy)
    if spec.deepspeed.config and _ENGINE.search(f"{type(error).__module__} {text}"):
        return _invalid("deepspeed.config", text)
    return None


def weights_damaged(uri: str, name: str, why: str) -> FinetuneError:
    """A file of weights is not what it was when it was written."""
    remedy = "Fetch that file again, whole; where it is a pointer, by `git lfs pull`."
    return user_error("WeightsDamaged", f"{uri}: {name} {why}.", remedy)


def not_loadable(spec: RunSpec, error: Exception, folder: Path) -> FinetuneError:
    """transformers cannot make the model: because of a field of its own, or of what is in the folder."""
    if found := damaged(folder) or incomplete(folder):
        return weights_damaged(spec.model.uri, *found)
    if (refused := refusal(error, spec)) is not None:
        return refused
    remedy = "Check spec.model.uri: the folder needs config.json, weights (*.safetensors) and tokenizer files."
    if "trust_remote_code" in str(error):
        remedy = "The model brings its own code: read it, then set spec.model.trustRemoteCode: true."
    return user_error(
        "ModelNotLoadable",
        f"{spec.model.uri} is no causal language model that transformers can load.",
        remedy,
        detail=str(error)[:600],
    )


def _invalid(field: str, text: str) -> FinetuneError:
    return user_error(
        "InvalidExtra", f"spec.{field} has a value that cannot be used: {text[:_LENGTH]}", "Mend it or remove it."
    )


def _names(config: dict[str, object]) -> list[str]:
    """Names of a DeepSpeed config that mean nothing else (`type`, `device`, `lr` are words of any message), the innermost first:
    they say most."""
    inner = [name for value in config.values() if isinstance(value, dict) for name in _names(value)]
    return [*inner, *(name for name in config if "_" in name)]
