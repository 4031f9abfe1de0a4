"""What of a model a checkpoint holds: what is trained, and nothing else.

In: the model that is trained. Out: how much a rank will write, and a `state_dict` without what is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_OPTIMIZER_BYTES = 12
"""Of a parameter under Adam: its weight in FP32 and two moments."""


def state_bytes(model: torch.nn.Module, *, stage: int, rank: int, ranks: int) -> int:
    """About what this rank's part of a checkpoint has: its share of the optimizer's states (all of them without ZeRO), and rank 0
    the weights, which ZeRO-3 makes from the others."""
    trained = [each for each in model.parameters() if each.requires_grad]
    states = _OPTIMIZER_BYTES * sum(map(_numel, trained)) / (ranks if stage else 1)
    weights = sum(_numel(each) * each.element_size() for each in trained) if rank == 0 and stage < 3 else 0
    return int(states) + weights


@contextmanager
def without_frozen(model: torch.nn.Module) -> Iterator[None]:
    """In the block `model.state_dict()` has no frozen parameter, under none of its names.

    DeepSpeed's `exclude_frozen_parameters` takes away those that `named_parameters` lists, and a tied one is listed once: the
    embeddings of a model whose head is tied to them came along as `lm_head.weight` in each checkpoint of its adapter."""
    frozen = [name for name, each in model.named_parameters(remove_duplicate=False) if not each.requires_grad]

    def drop(_model: Any, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
        for name in frozen:
            state.pop(prefix + name, None)

    handle = model.register_state_dict_post_hook(drop)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        handle.remove()


def _numel(parameter: Any) -> int:
    """Under ZeRO-3 a parameter is empty, and DeepSpeed knows how large it is."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
