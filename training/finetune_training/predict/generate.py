"""Prompts → what a model says to them.

In: a model's folder, or a base model's and an adapter's, and prompts: text, or messages of a chat. Out: one text per
prompt, generated in left-padded batches. No Ray here: the training's last step, `finetune predict` for one prompt and the
batch inference of many files all come to this room, and get the same answers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from finetune_training.chat.habits import ends_of_turns
from finetune_training.model.headers import context_of
from finetune_training.model.plain import load_plain
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.predict.limits import Limits
from finetune_training.predict.prompts import Prompt, encode


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. A temperature of 0: always the likeliest one (greedy). `batch_size` prompts at a time."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 8


@dataclass(frozen=True)
class LanguageModel:
    """A causal LM and its tokenizer. `model` may be a PeftModel: then the base below it can be asked too."""

    model: Any
    tokenizer: Any

    def answer(
        self, prompts: Sequence[Prompt], *, sampling: Sampling, chat: bool = True, base: bool = False
    ) -> list[str]:
        """One answer per prompt, in their order. `chat`, `base`: as in `encode` and `complete`."""
        encoded = [encode(self.tokenizer, prompt, chat=chat) for prompt in prompts]
        return self.complete(encoded, sampling=sampling, base=base)

    def complete(self, prompts: Sequence[list[int]], *, sampling: Sampling, base: bool = False) -> list[str]:
        """How the prompts' tokens go on, as text without special tokens. `base`: with the adapter switched off."""
        for prompt in prompts:
            self.limits.check(prompt, self.tokenizer, new=sampling.max_new_tokens)
        stop = stop_tokens(self)
        answers = [""] * len(prompts)
        by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))  # little padding in a batch
        was_training = self.model.training
        self.model.eval()
        try:
            with self._adapter_off() if base else nullcontext(), torch.random.fork_rng(), torch.inference_mode():
                torch.manual_seed(sampling.seed)
                for start in range(0, len(prompts), sampling.batch_size):
                    places = by_length[start : start + sampling.batch_size]
                    for place, text in zip(
                        places, self._batch([prompts[i] for i in places], sampling, stop), strict=True
                    ):
                        answers[place] = text
        finally:
            self.model.train(was_training)
        return answers

    def _batch(self, prompts: Sequence[list[int]], sampling: Sampling, stop: list[int]) -> list[str]:
        longest = max(map(len, prompts))
        padding = [[self._padding] * (longest - len(prompt)) for prompt in prompts]
        tokens = torch.tensor([fill + list(prompt) for fill, prompt in zip(padding, prompts, strict=True)])
        seen = torch.tensor([[0] * len(fill) + [1] * (longest - len(fill)) for fill in padding])
        chosen = {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature > 0 else _GREEDY
        answered = self.model.generate(
            input_ids=tokens.to(self.model.device),
            attention_mask=seen.to(self.model.device),
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=stop,
            pad_token_id=self._padding,
            use_cache=True,
            **chosen,
        )
        return list(self.tokenizer.batch_decode(answered[:, longest:], skip_special_tokens=True))

    def _adapter_off(self) -> Any:
        if not isinstance(self.model, PeftModel):
            raise TypeError("this model has no adapter to switch off")
        return self.model.disable_adapter()

    def room(self, prompt: Prompt, *, chat: bool = True) -> int:
        """How many new tokens the model has positions for, after `prompt`."""
        positions = self.limits.positions
        return sys.maxsize if positions is None else positions - len(encode(self.tokenizer, prompt, chat=chat))

    @cached_property
    def limits(self) -> Limits:
        config = self.model.config.get_text_config().to_dict()
        return Limits(len(self.model.get_input_embeddings().weight), context_of(config))

    @property
    def _padding(self) -> int:
        """A token that the model knows: what it makes of it is masked, but it is computed."""
        said = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in said if token is not None and token < (self.limits.embeddings or 0)), 0)


_GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
"""The sampling defaults of a model's own generation_config mean nothing without sampling, and transformers warns of them."""


def load_language_model(folder: Path, *, adapter: Path | None = None, trust_remote_code: bool = False) -> LanguageModel:
    """The model in `folder` in its own precision, on the GPU when there is one, with the adapter on top."""
    has_tokenizer = adapter is not None and (adapter / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(adapter if adapter and has_tokenizer else folder, trust_remote_code=trust_remote_code)
    return LanguageModel(load_plain(folder, adapter=adapter, trust_remote_code=trust_remote_code), tokenizer)


def stop_tokens(language_model: LanguageModel) -> list[int]:
    """The tokens that end an answer: the tokenizer's, the model's, and those that end a turn in the chat template, which
    models with a plain `eos_token` leave out."""
    tokenizer, config = language_model.tokenizer, language_model.model.generation_config
    own = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return sorted({token for token in (tokenizer.eos_token_id, *own, *ends_of_turns(tokenizer)) if token is not None})
