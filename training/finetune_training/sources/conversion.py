"""A row's columns → the row in its kind. Pure.

In: columns, and the shape that its source has. Out: `Messages`, `PromptCompletion` or `Text`; None for a row that holds nothing.
Whatever is wrong with a row is said with its file and line.
"""

from __future__ import annotations

from typing import Any

from finetune_training.contract.dataset import RowKind
from finetune_training.contract.failure import data_error
from finetune_training.sources.cells import is_empty, kind_of, listed, spelt, wrong_type
from finetune_training.sources.columns import Shape
from finetune_training.sources.content import system_of
from finetune_training.sources.messages import Conversation, conversation_of
from finetune_training.sources.rows import Messages, PromptCompletion, Row, Text
from finetune_training.sources.toolcalls import tools_of


def convert(row: dict[str, Any], shape: Shape, *, where: str) -> Row | None:
    """The row in its kind; None when it holds nothing. Raises a Data error: a column is missing or of a wrong type."""
    if not row:
        return None
    missing = [column for column in shape.required if column not in row]
    if missing:
        raise data_error(
            "ColumnMissing",
            f"{where}: the row has no column {missing[0]!r}, which the source's first row has; it has {listed(row)}.",
            "Mend the row, or give files of another kind a source of their own in spec.dataset.train.",
        )
    if shape.kind is RowKind.MESSAGES or (isinstance(row[shape.columns[-1]], list) and len(shape.columns) > 1):
        return _messages(row, shape, where)
    if len(shape.columns) > 1:
        return _pair(row, shape, where)
    text = _text(row, shape.columns[0], where)
    return Text(text, where) if text.strip() else None


def _messages(row: dict[str, Any], shape: Shape, where: str) -> Messages | None:
    conversation = _conversation(row, shape, where)
    if not conversation.messages:
        return None
    beside = {name: row[name] for name in shape.beside if not is_empty(row.get(name))}
    system = system_of(beside.get(shape.system), column=shape.system, where=where)
    if system.strip() and conversation.messages[0]["role"] not in ("system", "developer"):
        conversation = Conversation([{"role": "system", "content": system}]) + conversation
    column = next((name for name in shape.tools if name in beside), None)
    tools = tools_of(beside[column], column=column, where=where) if column else ()
    return Messages(conversation.messages, where, tools, conversation.unlearnt)


def _conversation(row: dict[str, Any], shape: Shape, where: str) -> Conversation:
    first, last = shape.required
    if len(shape.columns) == 1:
        return conversation_of(row[first], column=first, where=where)
    if isinstance(row[last], list):
        # What is asked is not learnt, whoever speaks in it: the columns say so.
        answer = conversation_of(row[last], column=last, where=where)
        if not answer.messages or row[first] in (None, "", [], {}):
            return answer
        asked = row[first] if isinstance(row[first], list) else [{"role": "user", "content": row[first]}]
        return conversation_of(asked, column=first, where=where).all_unlearnt + answer
    *asking, answer_text = (_text(row, column, where) for column in shape.columns)
    if not answer_text.strip():
        return Conversation([])
    turns = (("user", _joined(asking)), ("assistant", answer_text))
    messages = [{"role": role, "content": content} for role, content in turns]
    history = row.get(shape.history) if shape.history in shape.beside else None
    return _history(history, column=shape.history, where=where) + Conversation(messages)


def _history(value: Any, *, column: str, where: str) -> Conversation:
    """Earlier turns: pairs of question and answer, or messages; perhaps as JSON text."""
    turns = spelt(value, column=column, where=where, wanted="a list of turns") if isinstance(value, str) else value
    if is_empty(turns):
        return Conversation([])
    if not isinstance(turns, list) or all(isinstance(turn, dict) for turn in turns):
        return conversation_of(turns, column=column, where=where)
    said: list[tuple[str, str | None]] = []
    for place, turn in enumerate(turns):
        if is_empty(turn):
            continue
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str | None) for text in turn):
            why = f"{column}[{place}] is {kind_of(turn)}"
            wanted = "a list of pairs of question and answer"
            raise wrong_type(value, column=column, wanted=wanted, where=where, why=why)
        said += zip(("user", "assistant"), turn, strict=True)
    return Conversation([{"role": role, "content": text} for role, text in said if text])


def _pair(row: dict[str, Any], shape: Shape, where: str) -> PromptCompletion | None:
    beside = next((column for column in shape.beside if not is_empty(row.get(column))), None)
    if beside and not shape.asked:
        raise data_error(
            "KindUnclear",
            f"{where}: the row has {beside!r}, which makes it a conversation, and the source's first row has not.",
            "Set spec.dataset.kind: Messages for conversations, or PromptCompletion to ignore that column.",
        )
    *asking, answer = (_text(row, column, where) for column in shape.columns)
    if not answer.strip():
        return None
    # Alpaca's parts carry no blanks between them: without another blank line, the answer would stick to the question.
    return PromptCompletion(asking[0] if len(asking) == 1 else f"{_joined(asking)}\n\n", answer, where)


def _joined(texts: list[str]) -> str:
    return "\n\n".join(text for text in texts if text.strip())


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    if is_empty(value):
        return ""
    raise wrong_type(value, column=column, wanted="text", where=where)
