"""What the trained model makes of a few rows: by that its artifacts are known (driver/finish.py).

In: a trainer that is done, and the samples that it has scored. Out: the log-probability of every token of their first rows,
computed as the last evaluation was: by the same engine, in the same precision up to the head, which is computed in FP32
(model/comparison.py says why).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from finetune_training.events.progress import Likelihoods
from finetune_training.model.comparison import ROWS, rows_of
from finetune_training.worker.objective import ExactSFTTrainer


@torch.no_grad()
def witness(trainer: ExactSFTTrainer, samples: Any) -> tuple[Likelihoods, ...]:
    """Collective: every rank takes all rows."""
    rows = rows_of(samples[index] for index in range(min(len(samples), 4 * ROWS)))
    model = trainer.model_wrapped
    model.eval()
    with _without_tf32(), _head_in_fp32(trainer):
        found = tuple(Likelihoods(row, _log_probs(trainer, row)) for row in rows)
    model.train()
    return found


@contextmanager
def _without_tf32() -> Iterator[None]:
    """TF32 would blur what FP32 can tell apart. (torch refuses its older `get_float32_matmul_precision` where transformers has
    set TF32 by this.)"""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@contextmanager
def _head_in_fp32(trainer: ExactSFTTrainer) -> Iterator[None]:
    """TRL's head computes in the precision of what it is given."""

    def exact(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.float()
        return output

    model = trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model
    hook = model.base_model.register_forward_hook(exact)
    try:
        yield
    finally:
        hook.remove()


def _log_probs(trainer: ExactSFTTrainer, row: list[int]) -> list[float]:
    sample = {"input_ids": row, "labels": row, "seq_lengths": [len(row)]}
    outputs = trainer.model_wrapped(**trainer._prepare_inputs(trainer.data_collator([sample])), fused_lm_head=True)
    return [float(each) for each in outputs.log_probs.float().flatten()]
