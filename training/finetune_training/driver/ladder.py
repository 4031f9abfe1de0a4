"""What a run gives up, step by step, when it does not fit into its memory.

In: a spec, and what was given up already. Out: the spec of a run that needs less memory and learns the same: the global batch,
the order of the samples and what is computed stay; only time is paid. Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from finetune_training.contract.spec import Offload, RunSpec

_UNSHARDED, _GRADIENTS, _PARAMETERS = 0, 2, 3


@dataclass(frozen=True)
class Memory:
    """The settings that decide how much memory a run needs. `rung`: how many steps down from what was asked for. `told`: how
    many of them were for containers that were killed, which only the platform sees (FINETUNE_OUT_OF_MEMORY)."""

    micro_batch_size: int
    gradient_checkpointing: bool
    stage: int
    offload: Offload
    rung: int = 0
    told: int = 0

    @classmethod
    def of(cls, spec: RunSpec) -> Self:
        training, engine = spec.training, spec.deepspeed
        return cls(training.micro_batch_size, training.gradient_checkpointing, engine.stage, engine.offload)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        return cls(**fields | {"offload": Offload(fields["offload"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def applied(self, spec: RunSpec) -> RunSpec:
        """`spec` with these settings. What it asks for itself may be less still."""
        asked = spec.training
        training = {
            "micro_batch_size": min(self.micro_batch_size, asked.micro_batch_size),
            "gradient_checkpointing": self.gradient_checkpointing or asked.gradient_checkpointing,
        }
        return spec.model_copy(
            update={
                "training": asked.model_copy(update=training),
                "deepspeed": spec.deepspeed.model_copy(update={"stage": self.stage, "offload": self.offload}),
            }
        )


def relieved(memory: Memory, *, global_batch_size: int, ranks: int, anew: bool) -> Memory | None:
    """One step down; None when nothing is left to give up. `anew`: there is no checkpoint that must be loaded, so the ZeRO stage
    may change. First a smaller micro batch, then activations are computed twice, then more is sharded, then host memory
    is used."""
    changes: dict[str, Any]
    if memory.micro_batch_size > 1:
        share = global_batch_size // ranks
        sizes = range(1, memory.micro_batch_size // 2 + 1)
        changes = {"micro_batch_size": max(size for size in sizes if share % size == 0)}
    elif not memory.gradient_checkpointing:
        changes = {"gradient_checkpointing": True}
    elif anew and ranks > 1 and memory.stage < _PARAMETERS:
        changes = {"stage": _GRADIENTS if memory.stage < _GRADIENTS else _PARAMETERS}
    elif memory.stage > _UNSHARDED and memory.offload is Offload.NONE:
        changes = {"offload": Offload.OPTIMIZER}
    elif memory.stage == _PARAMETERS and memory.offload is Offload.OPTIMIZER:
        changes = {"offload": Offload.OPTIMIZER_AND_PARAMETERS}
    else:
        return None
    return Memory(**asdict(memory) | changes | {"rung": memory.rung + 1})


def difference(before: Memory, now: Memory) -> str:
    """What has changed, in the names of the spec."""
    names = {
        "micro_batch_size": "training.microBatchSize",
        "gradient_checkpointing": "training.gradientCheckpointing",
        "stage": "deepspeed.stage",
        "offload": "deepspeed.offload",
    }
    old, new = asdict(before), asdict(now)
    return ", ".join(
        f"{path} {_said(old[name])} -> {_said(new[name])}" for name, path in names.items() if old[name] != new[name]
    )


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
