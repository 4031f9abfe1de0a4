"""Tokens of rows → whether the model has embeddings for all of them. Pure, given a tokenizer.

In: rows, their outcomes, and for how many tokens the model has embeddings. Out: nothing, or a User error that names the row, the
token, its number and that of the embeddings. A tokenizer may have tokens that only some rows use (placeholders for what is not
text, tokens that somebody added): on the ranks they would be an index out of range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_training.contract.failure import user_error
from finetune_training.data.render import Outcome
from finetune_training.sources.rows import Row


def refuse_unembedded(rows: Sequence[Row], outcomes: Sequence[Outcome], tokenizer: Any, embeddings: int | None) -> None:
    """Raises a User error for the first token that the model cannot know. `embeddings`: None where nobody says how many."""
    if embeddings is None:
        return
    for row, outcome in zip(rows, outcomes, strict=True):
        for document in outcome.documents:
            highest = max(document.input_ids)
            if highest >= embeddings:
                count = max(len(tokenizer), highest + 1)
                raise user_error(
                    "TokensWithoutEmbeddings",
                    f"{row.where}: the token {tokenizer.convert_ids_to_tokens(highest)!r} is number {highest}, and the model "
                    f"has embeddings for {embeddings}: up to number {embeddings - 1}.",
                    "Take the token out of the rows, or give the model more embeddings first "
                    f"(model.resize_token_embeddings({count}), save_pretrained), and name that folder in spec.model.uri.",
                )
