"""The three kinds of rows that are trained on. Pure.

In: a line of JSON, or what columns.py and messages.py have found in it. Out: the row's columns, or the row itself: `Messages`,
`PromptCompletion` or `Text`, with a content that says what it is wherever it stands, and an identity made from that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from finetune_training.chat.template import Message
from finetune_training.contract.failure import data_error
from finetune_training.sources.cells import NotJSON, decoded, kind_of

EMPTY = "empty"


@dataclass(frozen=True)
class Messages:
    """A conversation. `where` says where the row is, for errors; it is not part of the content. `tools`: what the model is
    told that it may call. `unlearnt`: places in `messages` of the assistant's turns that are shown and not learnt."""

    messages: list[Message]
    where: str
    tools: tuple[dict[str, Any], ...] = ()
    unlearnt: frozenset[int] = frozenset()

    @property
    def content(self) -> str:
        tools = f"\0tools\0{_dumped(self.tools)}" if self.tools else ""
        unlearnt = f"\0unlearnt\0{sorted(self.unlearnt)}" if self.unlearnt else ""
        return f"Messages\0{_dumped(self.messages)}{tools}{unlearnt}"


@dataclass(frozen=True)
class PromptCompletion:
    """A text and how it goes on."""

    prompt: str
    completion: str
    where: str

    @property
    def content(self) -> str:
        return f"PromptCompletion\0{self.prompt}\0{self.completion}"


@dataclass(frozen=True)
class Text:
    """A text."""

    text: str
    where: str

    @property
    def content(self) -> str:
        return f"Text\0{self.text}"


Row = Messages | PromptCompletion | Text


def identity(row: Row) -> int:
    """64 bits that depend on the row's content alone: the same row is the same in every file, order and run."""
    try:
        content = row.content.encode()
    except UnicodeEncodeError:
        raise data_error("NotUnicode", f"{row.where}: half of a surrogate pair is no character.", "Mend it.") from None
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _dumped(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def parse(text: str, *, where: str) -> dict[str, Any]:
    """A row's columns from its JSON."""
    try:
        row = decoded(text)
    except NotJSON as error:
        raise data_error("BrokenJSON", f"{where}: not JSON: {error}.", "Mend the line.", detail=text[:200]) from None
    if not isinstance(row, dict):
        message = f"{where}: a row should be a JSON object, but is {kind_of(row)}."
        raise data_error("NotAnObject", message, 'Write {"text": …}, or the columns of another kind.')
    return row
