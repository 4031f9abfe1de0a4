"""What the tests of isolation share: a world of one rank, and a model whose documents see each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Alone:
    """A world of one rank, or of ranks that all say the same."""

    others: tuple[float, ...] = ()
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def take_the_mask_away(model: Any) -> None:
    """Its documents see what comes before them in their row; their positions restart as before."""
    forward = model.base_model.forward

    def unmasked(*arguments: Any, position_ids: torch.Tensor, **named: Any) -> Any:
        ones = torch.ones(position_ids.shape, dtype=torch.long)
        return forward(*arguments, position_ids=position_ids, **named | {"attention_mask": ones})

    model.base_model.forward = unmasked
