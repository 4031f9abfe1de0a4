"""Rows as people have them → the three kinds that are trained on. Pure.

In: a row's columns, from whatever file. Out: `Messages`, `PromptCompletion` or `Text`, or the reason why the row is left
out. The columns are told apart once per source, on its first row: OpenAI's `messages`, ShareGPT's `conversations`,
`prompt` and `completion` (text, or lists of messages), Alpaca's `instruction`, `input` and `output`, `text`. Whatever is
wrong with a row is said with its file and line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_training.contract.dataset import Columns, RowKind
from finetune_training.contract.failure import FinetuneError, data_error

EMPTY = "empty"
Message = dict[str, Any]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""ShareGPT's names (`from`) → the roles that chat templates know."""


@dataclass(frozen=True)
class Messages:
    """A conversation. `where` says where the row is, for errors; it is not part of the content. `tools`: what the chat
    template is given as tools. `unlearnt`: the places of assistant's messages that are not learnt."""

    messages: list[Message]
    where: str
    tools: tuple[dict[str, Any], ...] = ()
    unlearnt: frozenset[int] = frozenset()

    @property
    def content(self) -> str:
        written = json.dumps(self.messages, sort_keys=True, ensure_ascii=False)
        if self.tools:
            written += "\0tools" + json.dumps(self.tools, sort_keys=True, ensure_ascii=False)
        return "Messages\0" + written + (f"\0unlearnt{sorted(self.unlearnt)}" if self.unlearnt else "")


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


@dataclass(frozen=True)
class Shape:
    """Which columns hold what. `columns`: (messages,), (prompt, completion), (instruction, input, output) or (text,);
    all but Alpaca's `input` must be there. Messages in several columns: what is asked, and the assistant's answer."""

    kind: RowKind
    columns: tuple[str, ...]

    @property
    def required(self) -> tuple[str, ...]:
        return (self.columns[0], self.columns[-1])


def parse(text: str, *, where: str) -> dict[str, Any]:
    """A row's columns from its JSON."""
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        why = (
            f"{error.msg}, at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        )
        raise data_error("BrokenJSON", f"{where}: not JSON: {why}.", "Mend the line.", detail=text[:200]) from None
    if not isinstance(row, dict):
        raise data_error("NotAnObject", f"{where}: a row should be a JSON object, but is {_kind_of(row)}.")
    return row


def detect(columns: Iterable[str], *, kind: RowKind, named: Columns, where: str) -> Shape:
    """The shape of a source, from the columns of its first row."""
    there = list(columns)
    candidates = [shape for shape in _shapes(named, kind) if kind in (RowKind.AUTO, shape.kind)]
    wanted = [shape for shape in candidates if set(shape.columns) & _named(named)]
    for shape in wanted or candidates:
        if set(shape.required) <= set(there):
            return shape
    raise _undetected(there, wanted or candidates, kind=kind, is_named=bool(wanted), where=where)


def convert(row: dict[str, Any], shape: Shape, *, where: str) -> Row | None:
    """The row in its kind; None when it holds nothing. Raises a Data error: a column is missing or of a wrong type."""
    missing = [column for column in shape.required if column not in row]
    if missing:
        raise data_error(
            "ColumnMissing",
            f"{where}: the row has no column {missing[0]!r}, which the source's first row has; it has {_listed(row)}.",
            "Mend the row, or give files of another kind a source of their own in spec.dataset.train.",
        )
    if len(shape.columns) > 1:
        return _pair(row, shape, where)
    if shape.kind is RowKind.MESSAGES:
        messages = _messages(row[shape.columns[0]], column=shape.columns[0], where=where)
        return Messages(messages, where) if messages else None
    text = _text(row[shape.columns[0]], column=shape.columns[0], where=where)
    return Text(text, where) if text.strip() else None


def _pair(row: dict[str, Any], shape: Shape, where: str) -> Row | None:
    first, last = shape.required
    if isinstance(row[last], list):
        prompt = row[first] if isinstance(row[first], list) else [{"role": "user", "content": row[first]}]
        messages = _messages(prompt, column=first, where=where) + _messages(row[last], column=last, where=where)
        return Messages(messages, where) if messages else None
    texts = [_text(row.get(column), column=column, where=where) for column in shape.columns]
    if not texts[-1].strip():
        return None
    asked = "\n\n".join(text for text in texts[:-1] if text.strip())
    if shape.kind is RowKind.MESSAGES:
        turns = (("user", asked), ("assistant", texts[-1]))
        return Messages([{"role": role, "content": content} for role, content in turns], where)
    # Alpaca's parts carry no blanks between them: without another blank line, the answer would stick to the question.
    return PromptCompletion(texts[0] if len(texts) == 2 else f"{asked}\n\n", texts[-1], where)


def _text(value: Any, *, column: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise _wrong_type(value, column=column, wanted="text", where=where)


def _messages(value: Any, *, column: str, where: str) -> list[Message]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # JSON in a CSV cell
        try:
            value = json.loads(value)
        except ValueError:
            raise _wrong_type(value, column=column, wanted="a list of messages", where=where) from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong_type(value, column=column, wanted="a list of messages", where=where)
    return [_message(item, where=f"{where}: {column}[{place}]") for place, item in enumerate(value)]


def _message(item: Any, *, where: str) -> Message:
    if not isinstance(item, dict):
        raise data_error("WrongType", f"{where} should be a message with role and content, but is {_kind_of(item)}.")
    # A column of messages in Parquet has every key in every message, most of them null.
    message = {key: value for key, value in item.items() if value is not None}
    if "role" not in message and "from" in message:
        message = {"role": message.pop("from"), "content": message.pop("value", None), **message}
        message["role"] = _ROLES.get(str(message["role"]).lower(), message["role"])
        if message["role"] not in _ROLES.values():
            raise data_error(
                "UnknownRole",
                f"{where}: nobody knows who {message['role']!r} is (`from`).",
                f"Write one of: {', '.join(_ROLES)}.",
            )
    if not isinstance(message.get("role"), str):
        raise data_error("WrongType", f"{where} has no role; it has {_listed(message)}.")
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = "".join(_part(part, where=where) for part in content)
    elif content is None and "tool_calls" in message:
        message["content"] = ""
    elif not isinstance(content, str):
        raise _wrong_type(content, column="content", wanted="text", where=where)
    return message


def _part(part: Any, *, where: str) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise data_error("WrongType", f"{where}: content has a part that is not text; this trains language models only.")


def _shapes(named: Columns, kind: RowKind) -> list[Shape]:
    """All shapes, the likeliest first; a column that the spec names takes the usual name's place. Pairs become
    conversations when Messages are asked for."""
    paired = RowKind.MESSAGES if kind is RowKind.MESSAGES else RowKind.PROMPT_COMPLETION
    pair = Shape(paired, (named.prompt or "prompt", named.completion or "completion"))
    alpaca = Shape(paired, ("instruction", "input", "output"))
    messages = [named.messages] if named.messages else ["messages", "conversations"]
    texts = [named.text] if named.text else ["text", "content"]
    return [
        *(Shape(RowKind.MESSAGES, (column,)) for column in messages),
        pair,
        *([] if named.prompt or named.completion else [alpaca]),
        *(Shape(RowKind.TEXT, (column,)) for column in texts),
    ]


def _named(named: Columns) -> set[str]:
    return {column for column in (named.messages, named.prompt, named.completion, named.text) if column}


def _undetected(
    there: list[str], candidates: list[Shape], *, kind: RowKind, is_named: bool, where: str
) -> FinetuneError:
    if is_named:
        missing = [column for column in candidates[0].required if column not in there]
        return data_error(
            "ColumnMissing",
            f"{where}: there is no column {missing[0]!r}; there are {_listed(there)}.",
            "Mend spec.dataset.columns.",
        )
    looked_for = " or ".join(dict.fromkeys(" + ".join(dict.fromkeys(shape.required)) for shape in candidates))
    asked = "" if kind is RowKind.AUTO else f" (spec.dataset.kind is {kind})"
    return data_error(
        "ColumnsUnknown",
        f"{where}: no column is what it should be{asked}: looked for {looked_for}; there are {_listed(there)}.",
        "Name the columns in spec.dataset.columns: messages, or prompt and completion, or text"
        + ("." if kind is RowKind.AUTO else "; or set spec.dataset.kind: Auto."),
    )


def _wrong_type(value: Any, *, column: str, wanted: str, where: str) -> FinetuneError:
    return data_error("WrongType", f"{where}: {column} should be {wanted}, but is {_kind_of(value)}.", "Mend the row.")


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    name = names.get(type(value), "a number")
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return f"{name} ({shown[:60]}{'…' if len(shown) > 60 else ''})"


def _listed(columns: Iterable[str]) -> str:
    names = [repr(column) for column in columns]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"
