"""What a model is asked: rows and texts → prompts → tokens.

In: a row of a file, or a text, and a tokenizer. Out: the tokens that generation starts from. No torch here: the CPU stage of
batch inference does this in processes that have no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finetune_training.chat.habits import habits_of
from finetune_training.chat.template import Message, template_of
from finetune_training.contract.dataset import Columns, RowKind
from finetune_training.contract.failure import FinetuneError, data_error, user_error
from finetune_training.data.ends import bare, beginning
from finetune_training.sources.cells import is_empty
from finetune_training.sources.columns import Shape
from finetune_training.sources.conversion import convert
from finetune_training.sources.rows import Messages, Row

Prompt = str | Sequence[Message] | Messages
"""`Messages` where the row has tools, which the template is to be given."""
COLUMNS = ("messages", "prompt")
_SHOWN = 60


def prompt_of(row: dict[str, Any], *, column: str, where: str) -> Prompt:
    """The prompt in `column` of a row: a text, or messages (OpenAI's or ShareGPT's). When the assistant has the last
    word, that is the answer that the row already has, and the prompt is what comes before it."""
    if column not in row:
        raise _no_column(row, f"{where}: there is no column {column!r}", where)
    kind = RowKind.TEXT if isinstance(row[column], str) and column != "messages" else RowKind.MESSAGES
    chat = Shape(RowKind.MESSAGES, (column,)).in_view_of([row], Columns())
    if kind is RowKind.TEXT and not all(is_empty(row.get(name)) for name in chat.beside):
        # As in training: with a system prompt or tools beside it, a text is what the user says.
        kind, row = RowKind.MESSAGES, row | {column: [{"role": "user", "content": row[column]}]}
    found: Row | None = convert(row, replace(chat, kind=kind), where=where)
    if isinstance(found, Messages) and found.messages[-1]["role"] == "assistant":
        found = replace(found, messages=found.messages[:-1]) if len(found.messages) > 1 else None
    if found is None:
        raise data_error(
            "EmptyPrompt", f"{where}: the column {column!r} asks nothing.", "Mend the row, or leave it out."
        )
    if isinstance(found, Messages):
        return found if found.tools else found.messages
    return str(getattr(found, "text", ""))


def column_of(row: dict[str, Any], *, where: str) -> str:
    """The column that holds the prompts, from a file's first row."""
    for column in COLUMNS:
        if column in row:
            return column
    raise _no_column(row, f"{where}: there is no column {' or '.join(map(repr, COLUMNS))}", where)


def encode(tokenizer: Any, prompt: Prompt, *, chat: bool) -> list[int]:
    """The prompt's tokens. With `chat`, a text is one message of the user when the tokenizer has a chat template, else
    it is taken as it stands; messages need the template. As in training, nothing comes after a text, and one begin token
    before it."""
    if isinstance(prompt, str):
        if not (chat and tokenizer.chat_template):
            begin = beginning(tokenizer)
            text = bare(prompt, tokenizer, begin)
            return begin + _tokens(tokenizer, text)
        prompt = [{"role": "user", "content": prompt}]
    if not tokenizer.chat_template:
        raise user_error(
            "ChatTemplateMissing",
            "Messages need a chat template, and this model's tokenizer has none.",
            "Give plain text prompts, or a model with a chat template.",
        )
    return _tokens(tokenizer, _asked(tokenizer, prompt))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise data_error(
            "NotUnicode",
            f"A prompt holds half of a surrogate pair, which is no character: {text[:_SHOWN]!r}.",
            "Mend the prompt: it should be UTF-8.",
        ) from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _asked(tokenizer: Any, prompt: Sequence[Message] | Messages) -> str:
    messages, tools = (prompt.messages, prompt.tools) if isinstance(prompt, Messages) else (prompt, ())
    template = template_of(tokenizer, tools=tools, training=False)
    habits = habits_of(template)
    try:
        return template.render([habits.given(message) for message in messages], tools=tools, asks=True)[0]
    except Exception as error:  # whatever a template does is the template's fault, and Jinja raises anything
        raise user_error(
            "ChatTemplateFailed",
            f"The model's chat template cannot render these messages: {error}",
            "Check the roles and their order: most templates want user and assistant in turns.",
        ) from error


def _no_column(row: dict[str, Any], message: str, where: str) -> FinetuneError:
    columns = ", ".join(map(repr, row)) or "none"
    return data_error(
        "ColumnMissing", f"{message}; there are {columns}.", "Name the column with the prompts 'prompt' or 'messages'."
    )
