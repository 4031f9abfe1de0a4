"""The peers of the training benchmark: what one would write without us, in one process.

In: settings as JSON on the command line. Out: one line of JSON with the seconds and the useful tokens of each optimizer
step, and when the first began. `packed`: a plain TRL script with our settings. `padded`: the classic recipe, each line
a row that is padded to 512 tokens.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTED = time.time()


@dataclass(frozen=True)
class Settings:
    """The same numbers as in the job that is compared. `padded_length` of 0: packed."""

    model: str
    texts: list[str]
    steps: int
    max_length: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    lora_rank: int
    lora_alpha: float
    padded_length: int
    output: str


def main(settings: Settings) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.bfloat16)
    texts = [Path(path).read_text(encoding="utf-8") for path in settings.texts]
    padded = settings.padded_length > 0
    rows = [line for text in texts for line in text.splitlines() if line.strip()] if padded else texts
    args = SFTConfig(
        output_dir=settings.output,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        max_length=settings.padded_length or settings.max_length,
        packing=not padded,
        packing_strategy="bfd_split",
        pad_to_multiple_of=settings.padded_length or None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    dataset = Dataset.from_dict({"text": rows})
    trainer = timed(SFTTrainer)(
        model=model, args=args, train_dataset=dataset, processing_class=tokenizer, peft_config=lora
    )
    trainer.train()
    print(json.dumps({"started": STARTED, "first_step": trainer.first_step, "steps": trainer.timings}))


def timed(trainer_class: Any) -> Any:
    """The trainer, with the time of each optimizer step and the tokens in it that are not padding."""

    class Timed(trainer_class):  # type: ignore[misc]
        first_step = 0.0
        began = 0.0
        tokens = 0

        def get_batch_samples(self, *arguments: Any) -> Any:
            self.began = time.perf_counter()
            self.first_step = self.first_step or time.time()
            samples, supervised = super().get_batch_samples(*arguments)
            self.tokens = sum(int(useful(batch)) for batch in samples)
            return samples, supervised

        def log(self, logs: dict[str, Any], *arguments: Any) -> None:
            if "learning_rate" in logs:
                self.timings.append([time.perf_counter() - self.began, self.tokens])
            super().log(logs, *arguments)

    Timed.timings = []
    return Timed


def useful(batch: dict[str, Any]) -> int:
    """Tokens of a batch that are not padding."""
    mask = batch.get("attention_mask")
    return int(mask.sum()) if mask is not None else int(batch["input_ids"].numel())


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
