"""The tokens before and after a text. Pure, given a tokenizer.

In: a tokenizer, and texts that may already carry its special tokens. Out: the tokens that belong before a text, the one
that ends it, and the text without those that would come twice. Training and prompting agree because both ask here.
"""

from __future__ import annotations

from typing import Any

from finetune_training.contract.failure import user_error

_LETTER = "a"


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before every text: its begin token, if it does; with some models several."""
    whole = list(tokenizer(_LETTER)["input_ids"])
    alone = list(tokenizer(_LETTER, add_special_tokens=False)["input_ids"])
    places = [place for place in range(len(whole)) if whole[place : place + len(alone)] == alone]
    return whole[: places[0]] if places else []


def ending(tokenizer: Any) -> int:
    """The end-of-text token. Raises a User error: there is none."""
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise user_error(
            "NoEndToken",
            "The model's tokenizer has no end-of-text token, so the model could not learn to stop.",
            "Name one as eos_token in the model's tokenizer_config.json.",
        )
    return end


def ended(ids: list[int], end: int) -> list[int]:
    """The tokens with the end token, once."""
    return ids if ids[-1:] == [end] else [*ids, end]


def bare(text: str, tokenizer: Any, begin: list[int]) -> str:
    """The text without the begin tokens that it carries itself: they are written by whoever puts `begin` before it. Of a
    text that nothing is put before, one is left."""
    token = tokenizer.bos_token
    if not token or not text.startswith(token):
        return text
    rest = text
    while rest.startswith(token):
        rest = rest.removeprefix(token)
    return rest if tokenizer.bos_token_id in begin else token + rest


def closed(text: str, tokenizer: Any) -> str:
    """The text without blanks after an end token that it carries itself: nothing comes after the end."""
    end = tokenizer.eos_token
    return text.rstrip() if end and text.rstrip().endswith(end) else text
