"""RunSpec and the number of ranks → the DeepSpeed config.

In: what the user asked for. Out: plain values, the same wherever they are computed: `finetune validate` prints what the
ranks will use. Pure.
"""

from __future__ import annotations

from typing import Any

from finetune_training.contract.batch import batch_of
from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import Offload, Precision, RunSpec

MAX_GRAD_NORM = 1.0


def deepspeed_config(spec: RunSpec, *, ranks: int, on_gpu: bool) -> dict[str, Any]:
    """The config of `deepspeed.initialize`, with `spec.deepspeed.config` merged over it."""
    batch = batch_of(spec, ranks=ranks)
    bf16 = spec.training.precision is Precision.BF16
    config: dict[str, Any] = {
        "train_batch_size": batch.global_batch_size,
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        "gradient_clipping": _number(spec, "max_grad_norm", MAX_GRAD_NORM),
        "bf16": {"enabled": bf16},
        "zero_optimization": _zero(spec, on_gpu=on_gpu),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    if bf16 and spec.deepspeed.stage > 0:  # DeepSpeed 0.19 has no such mix at stage 0
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return merged(config, spec.deepspeed.config)


def merged(generated: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` over `generated`, field by field. Neither is changed."""
    result = dict(generated)
    for key, value in given.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _zero(spec: RunSpec, *, on_gpu: bool) -> dict[str, Any]:
    stage, offload = spec.deepspeed.stage, spec.deepspeed.offload
    zero: dict[str, Any] = {"stage": stage}
    if stage >= 1:
        zero |= {"overlap_comm": on_gpu, "contiguous_gradients": True}
    if stage == 3:
        zero |= {
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    pinned = {"device": "cpu", "pin_memory": on_gpu}
    if offload is not Offload.NONE:
        zero["offload_optimizer"] = dict(pinned)
    if offload is Offload.OPTIMIZER_AND_PARAMETERS:
        zero["offload_param"] = dict(pinned)
    return zero


def _number(spec: RunSpec, name: str, default: float) -> float:
    """A number of `training.extra`; YAML 1.1 reads 1e-8 as text."""
    value = spec.training.extra.get(name, default)
    try:
        return float(value)
    except (TypeError, ValueError):
        message = f"spec.training.extra.{name}: {value!r} is no number."
        raise user_error("InvalidExtra", message, "Write a number.") from None
