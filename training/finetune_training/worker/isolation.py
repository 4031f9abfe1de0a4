"""The proof that packed documents cannot see each other in a model as it trains.

In: the model, the collator of its batches, and their shape. Out: nothing, or a User error. transformers keeps packed documents
apart by their restarting `position_ids` when there is no attention mask, but not in every architecture: a run would learn from
leaks, and nobody would know.

The first document of each row is changed, and nothing else. Shapes and positions stay, and with them kernels and rounding, so
what the model says of the second document must stay. It does to the last bit in dense models and in mixtures of experts, in
BF16 as in FP32 (docs/decisions.md has the figures). Where it does not, the same change to a document that the second may see
tells how much of it is a leak.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch

from finetune_training.checkpoint.world import World
from finetune_training.contract.failure import user_error
from finetune_training.data.shards import IGNORE

LEAK: Final = 0.005
"""Of what the change does where it may be seen. Of the models that leak, none had less than 0.009."""
Collate = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


def check_isolation(
    model: Any,
    collate: Collate,
    *,
    rows: int,
    length: int,
    vocabulary: int,
    device: torch.device,
    world: World,
    seed: int = 0,
) -> None:
    """Collective. Tries `rows` samples of `length` tokens (from 1 to below `vocabulary`), each of two documents.

    `model` carries TRL's fused LM head: ZeRO-3 wants the modules called in the order of the training steps. Raises the
    User error PackingLeaks on all ranks or on none. Numbers that are not finite are none of its matter."""
    first = length // 2
    tokens, changed = _rows(rows, length, first, vocabulary, seed)

    def said(tokens: torch.Tensor, documents: list[int]) -> torch.Tensor:
        """Log-probabilities of all tokens of the second documents but their first."""
        samples = [_sample(row, first, documents) for row in tokens]
        batch = {name: values.to(device) for name, values in collate(samples).items()}
        log_probs: torch.Tensor = model(**batch, fused_lm_head=True).log_probs
        return log_probs[batch["labels"][:, 1:] != IGNORE].float()

    def change(documents: list[int]) -> float:
        """The largest, on any rank."""
        largest = (said(tokens, documents) - said(changed, documents)).abs().max().item()
        return max(world.gather(largest), key=lambda each: (math.isnan(each), each))

    model.eval()
    with torch.no_grad():
        apart = change([first, length - first])
        share = apart / max(change([length]), 1e-6) if apart > 0 else 0.0
    model.train()
    if share > LEAK:
        raise user_error(
            "PackingLeaks",
            "Packed documents see each other in this model: what it says of one changes with the one before it, "
            f"{share:.0%} as much as if the two were one.",
            "Set spec.dataset.packing: false, or choose another spec.model.attention.",
        )


def _rows(rows: int, length: int, first: int, vocabulary: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens, and the same with each of the `first` ones of each row changed. (rows, length) both."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary, (rows, length), generator=generator)
    shift = torch.randint(1, vocabulary - 1, (rows, first), generator=generator)
    changed = tokens.clone()
    changed[:, :first] = 1 + (tokens[:, :first] - 1 + shift) % (vocabulary - 1)
    return tokens, changed


def _sample(tokens: torch.Tensor, first: int, documents: list[int]) -> dict[str, Any]:
    """A packed sample as data preparation makes it, of documents of those lengths. Only the second part's tokens are to be
    predicted."""
    labels = tokens.clone()
    labels[: first + 1] = IGNORE
    return {"input_ids": tokens.numpy(), "labels": labels.numpy(), "seq_lengths": documents}
