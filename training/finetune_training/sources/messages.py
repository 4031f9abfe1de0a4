"""A column's value → the messages of a conversation, and which of the assistant's turns are not learnt. Pure.

In: a list of messages as people have it: OpenAI's, Mistral's and Together's `role` and `content`, ShareGPT's `from` and `value`,
JSON text of such a list. Out: messages as chat templates read them, and the places of the turns whose row says that they only
set the scene. What a message says of itself and cannot be done as it says is an error, with the message's place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from finetune_training.chat.template import Message
from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.toolcalls import calls_in_text, calls_of
from finetune_training.sources.wording import kind_of, listed, wrong_type

_ROLES: Final = {
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
    "tool_response": "tool",
    "function_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
"""ShareGPT's names (`from`) → the roles that chat templates know."""
_CALLS: Final = ("function_call", "tool_call")
"""Names under which the words are a call."""
_ALIASES: Final = ("function", *_CALLS, "tool_response")
"""Of these, the names that are also found as `role`, where others are left to the template."""
LEARNT_KEYS: Final = ("weight", "train", "training", "trainable", "loss", "loss_mask", "loss_scale")
"""What the field's tools call the key that says whether a message is learnt (OpenAI, Mistral, Together, Fireworks: weight;
Axolotl: train, training, weight; ms-swift: loss, loss_scale; verl: loss_mask)."""
_IN_PARTS: Final = "train_detail"
"""Axolotl's key that learns a message in parts."""


@dataclass(frozen=True)
class Conversation:
    """`unlearnt`: places of the assistant's messages that are shown and not learnt."""

    messages: list[Message]
    unlearnt: frozenset[int] = frozenset()

    def __add__(self, other: Conversation) -> Conversation:
        moved = (place + len(self.messages) for place in other.unlearnt)
        return Conversation(self.messages + other.messages, self.unlearnt.union(moved))

    @property
    def all_unlearnt(self) -> Conversation:
        """The same as a mere beginning."""
        said = (place for place, message in enumerate(self.messages) if message["role"] == "assistant")
        return Conversation(self.messages, frozenset(said))


@dataclass(frozen=True)
class _Turn:
    """`is_call`: the words were a call, which in such formats is a message of its own."""

    message: Message
    is_learnt: bool
    is_call: bool

    @property
    def is_unlearnt(self) -> bool:
        return not self.is_learnt and self.message["role"] == "assistant"


def conversation_of(value: Any, *, column: str, where: str) -> Conversation:
    """The conversation in a column; of no message when it holds nothing."""
    turns: list[_Turn] = []
    for place, item in enumerate(_list(value, column=column, where=where)):
        turn = _turn(item, where=f"{where}: {column}[{place}]")
        if turns and (whole := _gone_on(turns[-1], turn)):
            turns[-1] = whole
        else:
            turns.append(turn)
    unlearnt = frozenset(place for place, turn in enumerate(turns) if turn.is_unlearnt)
    return Conversation([turn.message for turn in turns], unlearnt)


def _list(value: Any, *, column: str, where: str) -> list[Any]:
    found = value
    if isinstance(value, str) and value.lstrip().startswith("["):  # JSON in a CSV cell
        try:
            found = json.loads(value)
        except ValueError:
            raise wrong_type(value, column=column, wanted="a list of messages", where=where) from None
    if found is None or (isinstance(found, str) and not found.strip()):
        return []
    if not isinstance(found, list):
        raise wrong_type(found, column=column, wanted="a list of messages", where=where)
    return found


def _gone_on(turn: _Turn, call: _Turn) -> _Turn | None:
    """What is said, or called, and then called, is one turn of the assistant."""
    if not call.is_call or turn.message["role"] != "assistant" or turn.is_learnt != call.is_learnt:
        return None
    calls = [*turn.message.get("tool_calls", []), *call.message["tool_calls"]]
    return _Turn({**turn.message, "tool_calls": calls}, turn.is_learnt, is_call=True)


def _turn(item: Any, *, where: str) -> _Turn:
    if not isinstance(item, dict):
        raise data_error("WrongType", f"{where} should be a message with role and content, but is {kind_of(item)}.")
    # A column of messages in Parquet has every key in every message, most of them null.
    there = {key: value for key, value in item.items() if value is not None}
    role, said = _role(there, where=where)
    is_learnt = role != "assistant" or _is_learnt(there, where=where)
    rest = {key: value for key, value in there.items() if key not in ("role", "from", "value", *LEARNT_KEYS)}
    content = {"content": there["value"]} if "value" in there else {}
    message = {"role": role, **content, **rest}
    if said in _CALLS:
        calls = calls_in_text(str(message.get("content") or ""), where=where)
        return _Turn({**message, "content": "", "tool_calls": calls}, is_learnt, is_call=True)
    return _Turn(_with_content(_with_calls(message, where=where), where=where), is_learnt, is_call=False)


def _role(message: Message, *, where: str) -> tuple[str, str]:
    """The role, and the name that the row has for it."""
    if "role" not in message and "from" in message:
        said = str(message["from"])
        if said.lower() not in _ROLES:
            known = ", ".join(_ROLES)
            raise data_error(
                "UnknownRole", f"{where}: nobody knows who {said!r} is (`from`).", f"Write one of: {known}."
            )
        return _ROLES[said.lower()], said.lower()
    role = message.get("role")
    if not isinstance(role, str):
        raise data_error("WrongType", f"{where} has no role; it has {listed(message)}.")
    return (_ROLES[role] if role in _ALIASES else role), role


def _is_learnt(message: Message, *, where: str) -> bool:
    if message.get(_IN_PARTS):
        raise _weight_unknown(
            f"{where}: {_IN_PARTS} learns a message in parts, and this learns it whole or not at all."
        )
    flags = {key: message[key] for key in LEARNT_KEYS if key in message}
    for key, value in flags.items():
        if not isinstance(value, int | float) or value not in (0, 1):
            raise _weight_unknown(f"{where}: {key} should be 0 or 1 (or false, true), but is {kind_of(value)}.")
    return all(flags.values())


def _weight_unknown(message: str) -> FinetuneError:
    return data_error(
        "WeightUnknown", message, "Write 1 for what is learnt and 0 for what is not, or take the key out."
    )


def _with_calls(message: Message, *, where: str) -> Message:
    calls = calls_of(message, where=where)
    rest = {key: value for key, value in message.items() if key not in ("tool_calls", "function_call")}
    return {**rest, "tool_calls": calls} if calls else rest


def _with_content(message: Message, *, where: str) -> Message:
    content = message.get("content")
    if isinstance(content, list):
        parts = [_part(part, where=where) for part in content]
        thoughts = "".join(text for is_thought, text in parts if is_thought)
        said = {**message, "content": "".join(text for is_thought, text in parts if not is_thought)}
        return {"reasoning_content": thoughts, **said} if thoughts else said
    if content is None and "tool_calls" in message:
        return {**message, "content": ""}
    if not isinstance(content, str):
        raise wrong_type(content, column="content", wanted="text", where=where)
    return message


def _part(part: Any, *, where: str) -> tuple[bool, str]:
    """Whether it is thought or said (Mistral's and Anthropic's parts tell), and the text."""
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return False, str(part["text"])
    thought = part.get("thinking") if isinstance(part, dict) else None
    if isinstance(thought, str):
        return True, thought
    if isinstance(thought, list):
        return True, "".join(_part(inner, where=where)[1] for inner in thought)
    raise data_error("WrongType", f"{where}: content has a part that is not text; this trains language models only.")
