"""How the samples of one optimizer step are shared out.

In: what the user asked for, and the number of ranks. Out: the numbers by which the ranks train, the same wherever they are
computed: the operator refuses with them what no attempt could do. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import RunSpec


@dataclass(frozen=True)
class Batch:
    """How one optimizer step is cut: global = ranks × micro × accumulation."""

    global_batch_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    ranks: int


def batch_of(spec: RunSpec, *, ranks: int) -> Batch:
    """Raises a User error when `globalBatchSize` cannot be cut evenly."""
    total, micro = spec.training.global_batch_size, spec.training.micro_batch_size
    accumulation, rest = divmod(total, ranks * micro)
    if rest or not accumulation:
        fitting = _nearest_multiples(total, ranks * micro)
        raise user_error(
            "BatchNotDivisible",
            f"spec.training.globalBatchSize: {total} cannot be divided among {ranks} ranks with microBatchSize {micro}.",
            f"Make globalBatchSize a multiple of {ranks * micro} ({fitting}), or change microBatchSize or the number of workers.",
        )
    return Batch(total, micro, accumulation, ranks)


def _nearest_multiples(total: int, unit: int) -> str:
    below = total // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)
