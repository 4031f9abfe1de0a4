"""A column's value → the messages of a conversation, and which of the assistant's turns are not learnt. Pure.

In: a list of messages as people have it: OpenAI's, Mistral's and Together's `role` and `content`, ShareGPT's `from` and `value`,
JSON text of such a list. Out: messages as chat templates read them, and the places of the turns whose row says that they only
set the scene. What a message says of itself and cannot be done as it says is an error, with the message's place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from finetune_training.chat.template import Message
from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.cells import kind_of, listed, spelt, wrong_type
from finetune_training.sources.content import with_content
from finetune_training.sources.toolcalls import calls_in, calls_of

_ROLES: Final = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "environment": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "function_response": "tool",
    "function_result": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
"""The names that data sets have (`from`, or `role`) → the roles that chat templates know. Their case, and - or _, say nothing."""
_CALLS: Final = ("function_call", "tool_call")
"""Names under which the words are a call."""
_TEMPLATES_OWN: Final = ("observation", "environment", "ipython")
"""Of these, roles of some chat templates: where they are found as `role`, the template decides."""
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
        found = spelt(value, column=column, where=where, wanted="a list of messages")
    if found in (None, {}) or (isinstance(found, str) and not found.strip()):
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
        shown = f"{where} should be a message with role and content, but is {kind_of(item)}."
        raise data_error("WrongType", shown, "Mend the row.")
    # A column of messages in Parquet has every key in every message, most of them null.
    there = {key: value for key, value in item.items() if value is not None}
    role, said = _role(there, where=where)
    is_learnt = role != "assistant" or _is_learnt(there, where=where)
    rest = {key: value for key, value in there.items() if key not in ("role", "from", "value", *LEARNT_KEYS)}
    content = {"content": there["value"]} if "value" in there else {}
    message = {"role": role, **content, **rest}
    if said in _CALLS:
        calls = calls_in(message.get("content") or "", where=where)
        return _Turn({**message, "content": "", "tool_calls": calls}, is_learnt, is_call=True)
    return _Turn(with_content(_with_calls(message, where=where), where=where), is_learnt, is_call=False)


def _role(message: Message, *, where: str) -> tuple[str, str]:
    """The role, and the name that the row has for it."""
    key = "role" if "role" in message else "from"
    said = message.get(key)
    if not isinstance(said, str):
        remedy = "Give each message role and content (or from and value)."
        raise data_error("WrongType", f"{where} has no role; it has {listed(message)}.", remedy)
    name = said.strip().lower().replace("-", "_").replace(" ", "_")
    if key == "role" and (name not in _ROLES or name in _TEMPLATES_OWN):
        return said, said
    if name not in _ROLES:
        known = ", ".join(_ROLES)
        raise data_error("UnknownRole", f"{where}: nobody knows who {said!r} is (`from`).", f"Write one of: {known}.")
    return _ROLES[name], name


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
