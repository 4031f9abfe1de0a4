"""The stage of batch inference that needs no model: rows of files → what the model is asked.

In: rows as Ray Data reads them, their files, the tokenizer as bytes. Out: the same rows and their prompts' tokens. Runs on CPUs,
without torch; what is wrong with a row is told here, with its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.model.tokenizer import Portable
from finetune_training.predict.limits import Limits
from finetune_training.predict.promptfiles import PromptFile
from finetune_training.predict.prompts import encode

_PLACED = ("file", "number", "row")
_ENCODED = pa.schema([("row", pa.string()), ("input_ids", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Asking:
    """How prompts become tokens. `chat`: texts are messages of the user where there is a template. `new` tokens are to come,
    within the model's limits."""

    chat: bool
    limits: Limits
    new: int


def asked(table: pa.Table, files: list[PromptFile], tokenizer: Portable, asking: Asking) -> pa.Table:
    """Rows (documents.ROWS) → the same rows and their prompts' tokens."""
    rows, tokens = [], []
    for index, number, text in zip(*(table.column(name).to_pylist() for name in _PLACED), strict=True):
        found = files[index].prompt(number, text)
        if found:
            where, (row, prompt) = files[index].where(number), found
            rows.append(_line(row, where=where))
            try:
                tokens.append(encode(tokenizer.load(), prompt, chat=asking.chat))
                asking.limits.check(tokens[-1], tokenizer.load(), new=asking.new)
            except FinetuneError as error:
                raise error.at(where) from None
    return pa.table([rows, tokens], schema=_ENCODED)


def _line(row: dict[str, Any], *, where: str) -> str:
    """Raises a Data error for what nobody could write: JSON can hold half of a surrogate pair."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        raise data_error("NotUnicode", f"{where}: half of a surrogate pair is no character.", "Mend it.") from None
    return line
