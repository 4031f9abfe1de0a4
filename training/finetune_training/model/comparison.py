"""Whether two models say the same: before an artifact is published it is compared with what was evaluated.

In: a model, and a few rows of tokens. Out: what the model makes of each token, and a failure of its own when two models that
should be one make something else of them. A number can be wrong in every artifact and still look like a model; nothing but
asking both finds that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from finetune_training.contract.failure import infrastructure_error
from finetune_training.contract.spec import Precision
from finetune_training.events.progress import Likelihoods

ROWS: Final = 4
TOKENS: Final = 64
"""Of each row, at most. Together enough for a mean that chance hardly moves, and seconds where BF16 is computed in software."""
TOLERANCE: Final = 0.1
TOLERANCE_FP32: Final = 0.0005
"""Nats per token: how far apart the log-probabilities of one model may be, on average, when it is computed in two ways
(docs/decisions.md has the measurements)."""
_TEXT: Final = (
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs, and send it to 27 Main Street.",
    "When in the course of human events it becomes necessary for one people to dissolve the bands which have connected them.",
    "def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)  # slow, but plain enough for a test",
    "In the beginning was the word, and the word was written down; by the end of the year nobody remembered who had said it.",
)


def rows_of(samples: Iterable[Any]) -> list[list[int]]:
    """The beginnings of the first documents in packed samples (data/shards.SCHEMA)."""
    documents = ([int(token) for token in sample["input_ids"][: sample["seq_lengths"][0]]] for sample in samples)
    return _cut(documents)


def rows_of_text(tokenizer: Any) -> list[list[int]]:
    """Where there are no prepared rows: some sentences, as good as any to tell two models apart."""
    return _cut(tokenizer(text, add_special_tokens=False)["input_ids"] for text in _TEXT)


def _cut(documents: Iterable[list[int]]) -> list[list[int]]:
    rows = [document[:TOKENS] for document in documents]
    return [row for row in rows if len(row) > 1][:ROWS]


@torch.no_grad()
def likelihoods(model: Any, rows: Sequence[list[int]]) -> list[Likelihoods]:
    """What `model` makes of the rows, each alone, by a plain forward pass."""
    was_training = model.training
    model.eval()
    found = []
    with _head_in_fp32(model):
        for row in rows:
            tokens = torch.tensor([row], device=model.device)
            logits = model(input_ids=tokens).logits[0, :-1].float()
            chosen = logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
            found.append(Likelihoods(row, chosen.tolist()))
    model.train(was_training)
    return found


@contextmanager
def _head_in_fp32(model: Any) -> Iterator[None]:
    """Of logits only their distances count: where all are far from 0, as with GPT-2, BF16 rounds those away. What the model does
    with them afterwards (scales, caps) stays its own."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:  # none of a known kind, or one with an adapter
        yield
        return

    def project(head: torch.nn.Linear, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias.float()
        return torch.nn.functional.linear(inputs[0].float(), head.weight.float(), bias)

    hook = head.register_forward_hook(project)
    try:
        yield
    finally:
        hook.remove()


def check_alike(
    wanted: Sequence[Likelihoods],
    found: Sequence[Likelihoods],
    *,
    model: Any,
    names: tuple[str, str],
    computed_in: Precision = Precision.FP32,
) -> None:
    """Raise a failure when `model`, which has said `found`, is not what has said `wanted`. `names`: what the two are.
    `computed_in`: how the first was computed, where that may be coarser than the weights of `model`."""
    exact = computed_in is Precision.FP32 and is_exact(model)
    apart, tolerated = difference(wanted, found), TOLERANCE_FP32 if exact else TOLERANCE
    if apart <= tolerated:
        return
    raise infrastructure_error(
        "ArtifactDiffers",
        f"{names[1]} is not {names[0]}: on {len(wanted)} rows the log-probabilities are {_mean(found):.4f} and "
        f"{_mean(wanted):.4f} per token, {apart:.4f} apart; {tolerated:g} is tolerated. Nothing is published.",
        "Run the same command again: it makes the artifacts anew from the last checkpoint. If they differ again, what was "
        "trained does not survive being written so: leave out the output that is named, or report it with the log.",
    )


def difference(wanted: Sequence[Likelihoods], found: Sequence[Likelihoods]) -> float:
    """The mean distance of the log-probabilities of a token. Infinite where a number is none, or where there is nothing to
    compare: what was not compared is not alike."""
    pairs = [
        (one, other)
        for before, after in zip(wanted, found, strict=True)
        for one, other in zip(before.log_probs, after.log_probs, strict=True)
    ]
    apart = sum(abs(one - other) for one, other in pairs) / len(pairs) if pairs else math.inf
    return apart if math.isfinite(apart) else math.inf


def is_exact(model: Any) -> bool:
    """Whether no weight of it is coarser than FP32."""
    return all(weight.dtype in (torch.float32, torch.float64) for weight in model.parameters())


def _mean(said: Sequence[Likelihoods]) -> float:
    values = [value for row in said for value in row.log_probs]
    return sum(values) / len(values) if values else math.nan
