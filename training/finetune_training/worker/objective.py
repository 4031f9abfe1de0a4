"""One TRL trainer per objective, made exact: which samples a step uses comes from position.py, what a checkpoint is
from save.py.

In: a model, packed samples, a plan. Out: an `SFTTrainer` whose every step is a pure function of its number. TRL keeps
the loss (fused LM head, mean over the supervised tokens of the global batch), transformers the loop, the optimizer and
the scheduler; what we replace is the sampler, the evaluation (theirs averages batches, ours tokens) and the saving.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from finetune_training.checkpoint.reshape import settle
from finetune_training.contract.batch import Batch
from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import Offload, Precision, RunSpec, Scheduler
from finetune_training.data.shards import IGNORE
from finetune_training.model.engine import MAX_GRAD_NORM
from finetune_training.model.lora import lora_config
from finetune_training.model.model import flattens
from finetune_training.model.refusals import refusal
from finetune_training.model.state import state_bytes, without_frozen
from finetune_training.worker.position import EMPTY, Plan

SCHEDULERS = {Scheduler.COSINE: "cosine", Scheduler.LINEAR: "linear", Scheduler.CONSTANT: "constant_with_warmup"}
_FIXED: dict[str, Any] = {
    "max_length": None,
    "packing": False,
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "remove_unused_columns": False,
    "ignore_data_skip": True,
    "average_tokens_across_devices": True,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "logging_strategy": "steps",
    "auto_find_batch_size": False,
    "load_best_model_at_end": False,
    "eval_on_start": False,
    "fp16": False,
    "push_to_hub": False,
    "hub_token": None,
    "use_liger_kernel": False,
    "padding_free": False,
    "enable_jit_checkpoint": False,
}
"""The same for every run: samples come packed, and the loop, the saving and the batches stay in our hands."""
TensorBatch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Collator:
    """Packed samples → one batch. `flatten`: all in one row, for varlen attention kernels; else one row per sample,
    padded to the longest.

    No attention mask: transformers keeps documents apart by their restarting `position_ids`. Padding is a document of
    its own.
    """

    pad_token_id: int
    flatten: bool

    def __call__(self, samples: list[dict[str, Any]]) -> TensorBatch:
        rows = [_row(sample) for sample in samples]
        if self.flatten:
            return {name: torch.cat([row[name] for row in rows]).unsqueeze(0) for name in rows[0]}
        length = max(len(row["input_ids"]) for row in rows)
        return {
            "input_ids": _padded(rows, "input_ids", length, fill=lambda size: torch.full((size,), self.pad_token_id)),
            "labels": _padded(rows, "labels", length, fill=lambda size: torch.full((size,), IGNORE)),
            "position_ids": _padded(rows, "position_ids", length, fill=torch.arange),
        }


def empty_sample(token_id: int) -> dict[str, Any]:
    """What stands where a plan has no sample: two tokens, nothing learnt, so it weighs nothing in the loss."""
    return {"input_ids": [token_id] * 2, "labels": [IGNORE] * 2, "seq_lengths": [2]}


class _MicroBatches(IterableDataset[dict[str, Any]]):
    """A rank's batches from `first_step` on, each with the `samples` that it is made of."""

    def __init__(self, trainer: ExactSFTTrainer, first_step: int) -> None:
        self._trainer, self._first_step = trainer, first_step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        trainer = self._trainer
        args = trainer.args
        for indices in trainer.plan.micro_batches(
            first_step=self._first_step,
            rank=args.process_index,
            world_size=args.world_size,
            micro_batch_size=args.per_device_train_batch_size,
        ):
            yield trainer.collate(trainer.train_dataset, indices) | {"samples": indices}


class StepCallback(TrainerCallback):  # type: ignore[misc]
    """Is told what every callback is told, and when the samples of the next step are about to be read."""

    def on_batch(self) -> None: ...


class ExactSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Supervised fine-tuning on packed samples, in the plan's order."""

    def __init__(self, *, plan: Plan, first_step: int, **options: Any) -> None:
        self.plan, self._first_step = plan, first_step
        self.supervised_tokens = 0
        self.used: list[int] = []
        """The samples of the step, those of this rank."""
        super().__init__(**options)
        tokenizer: PreTrainedTokenizerBase = self.processing_class
        self._empty = empty_sample(tokenizer.pad_token_id or 0)

    def collate(self, dataset: Dataset, indices: list[int]) -> TensorBatch:
        batch: TensorBatch = self.data_collator(
            [self._empty if index == EMPTY else dataset[index] for index in indices]
        )
        return batch

    def get_train_dataloader(self) -> DataLoader[Any]:
        """A generator of its own: a DataLoader draws from the global one when it starts, which dropout would notice
        after a resume."""
        return DataLoader(
            _MicroBatches(self, self._first_step),
            batch_size=None,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),
        )

    def get_batch_samples(self, *args: Any) -> tuple[list[TensorBatch], torch.Tensor]:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, StepCallback):
                callback.on_batch()
        batches, supervised = super().get_batch_samples(*args)
        self.supervised_tokens = int(supervised) if supervised is not None else 0
        self.used = [index for batch in batches for index in batch.pop("samples") if index != EMPTY]
        return batches, supervised

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Nothing: that is up to `on_save` of a callback, which follows."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called when the engine has loaded the checkpoint."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            settle(self.model_wrapped)

    def write_state(self, folder: Path) -> None:
        """This rank's part of a checkpoint: engine shards, scheduler, RNG states, trainer state."""
        with without_frozen(self.model) if isinstance(self.model, PeftModel) else nullcontext():
            self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        if self.args.should_save:
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def state_bytes(self) -> int:
        """About what `write_state` will write."""
        stage, args = self.model_wrapped.zero_optimization_stage(), self.args
        return state_bytes(self.model, stage=stage, rank=args.process_index, ranks=args.world_size)

    @torch.no_grad()
    def held_out_loss(self, dataset: Dataset) -> tuple[float, int]:
        """Mean loss over all supervised tokens of `dataset`, and their number. Collective: every rank takes its share."""
        model, args = self.model_wrapped, self.args
        model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=args.device)
        size = args.world_size * args.per_device_eval_batch_size
        for first in range(0, len(dataset), size):
            mine = range(first + args.process_index, first + size, args.world_size)
            indices = [index if index < len(dataset) else EMPTY for index in mine]
            inputs = self._prepare_inputs(self.collate(dataset, indices))
            outputs = model(**inputs, fused_lm_head=True)
            totals += torch.stack([-outputs.log_probs.double().sum(), outputs.label_mask.sum().double()])
        model.train()
        loss, tokens = self.accelerator.reduce(totals, reduction="sum").tolist()
        return loss / max(tokens, 1.0), int(tokens)


def sft_config(
    spec: RunSpec, batch: Batch, *, steps: int, deepspeed: dict[str, Any], on_gpu: bool, folder: Path
) -> SFTConfig:
    """TRL's arguments. Creating them also tells transformers about ZeRO-3, so do it before the model is loaded."""
    training = spec.training
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": batch.micro_batch_size,
        "per_device_eval_batch_size": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": SCHEDULERS[training.scheduler],
        "warmup_steps": training.warmup_ratio if training.warmup_ratio < 1 else steps,
        "bf16": training.precision is Precision.BF16,
        "gradient_checkpointing": training.gradient_checkpointing,
        "seed": training.seed,
        "deepspeed": deepspeed,
        "use_cpu": not on_gpu,
        **_FIXED,
        "dataloader_pin_memory": on_gpu,
    }
    defaults = {"max_grad_norm": MAX_GRAD_NORM, "optim": "adamw_torch_fused" if on_gpu else "adamw_torch"}
    _check_extra(training.extra, set(ours))
    try:
        return SFTConfig(**{**defaults, **training.extra, **ours})
    except (ValueError, TypeError, ImportError) as error:
        if (refused := refusal(error, spec)) is not None:
            raise refused from error
        raise user_error(
            "InvalidExtra",
            f"spec.training.extra or spec.deepspeed.config has a value that cannot be used: {str(error).strip()[:300]}",
            "Mend it or remove it.",
        ) from error


def sft_trainer(
    spec: RunSpec,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: SFTConfig,
    plan: Plan,
    train: Dataset,
    first_step: int,
) -> ExactSFTTrainer:
    return ExactSFTTrainer(
        plan=plan,
        first_step=first_step,
        model=model,
        args=args,
        train_dataset=train,
        processing_class=tokenizer,
        data_collator=Collator(tokenizer.pad_token_id or 0, flatten=flattens(model)),
        peft_config=lora_config(spec),
        optimizer_cls_and_kwargs=_host_adam(args) if spec.deepspeed.offload is not Offload.NONE else None,
    )


def _host_adam(args: SFTConfig) -> tuple[type, dict[str, Any]]:
    """DeepSpeed's AdamW, which computes on the host where the offloaded states are. Made as any other optimizer is, and not by
    a section of DeepSpeed's config: so a checkpoint has the same parts with offload and without."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    betas = args.adam_beta1, args.adam_beta2
    return DeepSpeedCPUAdam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}


def _row(sample: dict[str, Any]) -> TensorBatch:
    position_ids = np.concatenate([np.arange(length) for length in sample["seq_lengths"]])
    return {
        "input_ids": torch.as_tensor(np.asarray(sample["input_ids"]), dtype=torch.long),
        "labels": torch.as_tensor(np.asarray(sample["labels"]), dtype=torch.long),
        "position_ids": torch.as_tensor(position_ids, dtype=torch.long),
    }


def _padded(rows: list[TensorBatch], name: str, length: int, *, fill: Callable[[int], torch.Tensor]) -> torch.Tensor:
    return torch.stack([torch.cat([row[name], fill(length - len(row[name]))]) for row in rows])


def _check_extra(extra: dict[str, Any], ours: set[str]) -> None:
    known = {field.name for field in fields(SFTConfig)}
    for name in extra:
        if name in ours:
            raise user_error(
                "InvalidExtra",
                f"spec.training.extra.{name} is set by another field or by the run itself.",
                "Remove it from extra.",
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise user_error(
                "InvalidExtra",
                f"spec.training.extra.{name}: transformers.TrainingArguments has no such argument.",
                f"Did you mean {near[0]}?" if near else "Remove it.",
            )
