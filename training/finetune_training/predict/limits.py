"""Whether a model can be asked a prompt.

In: the prompt's tokens, and what the model takes. Out: nothing, or the error that says why not: torch would only say that an
index is out of range, and on a GPU it would end the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_training.contract.failure import data_error, user_error
from finetune_training.model.headers import context_of, embeddings_of, text_config
from finetune_training.model.modelfiles import CONFIG

_SHOWN = 16
"""Of a prompt that cannot be asked, so many tokens are shown."""


@dataclass(frozen=True)
class Limits:
    """`embeddings`: how many tokens the model knows, `positions`: how many it takes at once; None where nobody says."""

    embeddings: int | None = None
    positions: int | None = None

    def check(self, prompt: Sequence[int], tokenizer: Any, *, new: int) -> None:
        """Raises an error: the model cannot be asked `prompt` for `new` tokens more."""
        if not prompt:
            raise data_error("EmptyPrompt", "A prompt is empty.", "Ask something.")
        unknown = next((token for token in prompt if self.embeddings and token >= self.embeddings), None)
        if unknown is not None:
            raise user_error(
                "TokensWithoutEmbeddings",
                f"The prompt {_shown(prompt, tokenizer)} has the token {tokenizer.convert_ids_to_tokens(unknown)!r}, for which "
                f"the model has no embedding: the tokenizer has {len(tokenizer)} tokens, the model {self.embeddings}.",
                "Take the tokenizer that came with this model, or ask without that token.",
            )
        if self.positions and len(prompt) + new > self.positions:
            raise data_error(
                "PromptTooLong",
                f"The prompt {_shown(prompt, tokenizer)} has {len(prompt)} tokens, and {new} new ones are asked for: this model "
                f"takes {self.positions}.",
                "Shorten the prompt, or lower the number of new tokens.",
            )


def limits_of(folder: Path) -> Limits:
    """The limits of the model whose config is in `folder`."""
    return Limits(embeddings_of(folder), context_of(text_config(folder))) if (folder / CONFIG).is_file() else Limits()


def _shown(prompt: Sequence[int], tokenizer: Any) -> str:
    text = tokenizer.decode(list(prompt[:_SHOWN]))
    return repr(f"{text}…" if len(prompt) > _SHOWN else text)
