"""The columns of a source → which of them holds what. Pure.

In: a source's first rows, and the names that the spec has for columns. Out: the source's `Shape`, or what there is instead of the
columns that were looked for. Told apart are OpenAI's `messages`, ShareGPT's `conversations`, `prompt` and `completion` (text,
or lists of messages), Alpaca's `instruction`, `input` and `output`, `text`; and pairs of answers of which one is preferred,
from which nothing here can learn yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_training.contract.dataset import Columns, RowKind
from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.cells import is_empty, kind_of, listed
from finetune_training.sources.content import says_system
from finetune_training.sources.toolcalls import says_tools

_PREFERENCES: Final = (
    ("chosen", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("messages", "rejected_response"),
    ("response", "rejected_response"),
    ("output", "kto_tag"),
    ("conversations", "kto_tag"),
)
"""Columns that together say which answer is better: of TRL and Axolotl, of OpenAI and Together, of ms-swift, of LLaMA-Factory."""
_JUDGED: Final = ("prompt", "completion", "label")
"""TRL's KTO: `label` is true for a good answer, false for a bad one."""


@dataclass(frozen=True)
class Shape:
    """Which columns hold what. `columns`: (messages,), (prompt, completion), (instruction, input, output) or (text,);
    all but Alpaca's `input` must be there. Messages in several columns: what is asked, and the assistant's answer. A
    conversation may have `system`, `history` and `tools` (the first that is there) beside it. `asked`: the spec names the
    kind, so that what a plain pair has no place for is ignored; else it is an error. `strange`: columns that are only called
    like one of these, and what they hold."""

    kind: RowKind
    columns: tuple[str, ...]
    system: str = "system"
    history: str = "history"
    tools: tuple[str, ...] = ("tools", "functions")
    asked: bool = False
    strange: tuple[tuple[str, str], ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        return (self.columns[0], self.columns[-1])

    @property
    def beside(self) -> tuple[str, ...]:
        """The columns that a conversation may have too."""
        if self.kind is RowKind.TEXT:
            return ()
        usual = (self.system, *((self.history,) if len(self.columns) > 1 else ()), *self.tools)
        strange = dict(self.strange)
        return tuple(name for name in usual if name not in strange)

    def in_view_of(self, rows: Sequence[Mapping[str, Any]], named: Columns) -> Shape:
        """The shape, without columns that no row shows to be what they are called. Whatever the spec names is what it says."""
        means = {self.system: says_system, self.history: says_history, **dict.fromkeys(self.tools, says_tools)}
        strange = []
        for name in self.beside:
            values = [row[name] for row in rows if not is_empty(row.get(name))]
            if values and name not in (named.system, named.tools) and not any(map(means[name], values)):
                strange.append((name, kind_of(values[0])))
        return replace(self, strange=tuple(strange))

    @property
    def wanted(self) -> tuple[str, ...]:
        """All that is read; first and last are those that must be there."""
        return (*self.columns[:-1], *self.beside, self.columns[-1]) if len(self.columns) > 1 else self._one_and_beside

    @property
    def _one_and_beside(self) -> tuple[str, ...]:
        return (*self.columns, *self.beside, *self.columns) if self.beside else self.columns


def detect(
    row: Mapping[str, Any], *, more: Sequence[Mapping[str, Any]] = (), kind: RowKind, named: Columns, where: str
) -> Shape:
    """The shape of a source, from its first row; which of that row's columns hold something, `more` rows tell too."""
    held = _held(row, more)
    candidates = [shape for shape in _shapes(named, kind) if kind in (RowKind.AUTO, shape.kind)]
    wanted = [shape for shape in candidates if set(shape.columns) & _named(named)]
    if not wanted:
        _refuse_preferences(set(row), held, where=where)
    there = [shape for shape in wanted or candidates if set(shape.required) <= set(row)]
    if there:
        shape = next((shape for shape in there if _fits(shape, held[shape.columns[-1]])), there[0])
        return _as_conversation(shape.in_view_of([row, *more], named), held)
    raise _undetected(list(row), wanted or candidates, kind=kind, is_named=bool(wanted), where=where)


def _fits(shape: Shape, value: Any) -> bool:
    """Whether the column that is learnt holds something; a count of messages, or their text, is no conversation."""
    if shape.kind is RowKind.MESSAGES and len(shape.columns) == 1:
        is_list = isinstance(value, list | dict) or (isinstance(value, str) and value.lstrip().startswith("["))
        return is_list and not is_empty(value)
    return not is_empty(value)


def _held(row: Mapping[str, Any], more: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All columns, each with the first value in it that says something."""
    held = dict(row)
    for each in more:
        held.update((name, value) for name, value in each.items() if is_empty(held.get(name)))
    return held


def looked_at(named: Columns) -> tuple[str, ...]:
    """The names of all columns whose values tell a shape."""
    shapes = _shapes(named, RowKind.AUTO)
    judged = (*(name for each in _PREFERENCES for name in each), *_JUDGED)
    return tuple(dict.fromkeys((*(name for shape in shapes for name in (*shape.columns, *shape.beside)), *judged)))


def _as_conversation(shape: Shape, row: Mapping[str, Any]) -> Shape:
    """A pair that has a system prompt, earlier turns or tools beside it is a conversation, unless the spec says it is not."""
    if shape.kind is not RowKind.PROMPT_COMPLETION or shape.asked or not set(shape.beside) & set(row):
        return shape
    return replace(shape, kind=RowKind.MESSAGES)


def _shapes(named: Columns, kind: RowKind) -> list[Shape]:
    """All shapes, the likeliest first; a column that the spec names takes the usual name's place. Pairs become
    conversations when Messages are asked for."""
    paired = RowKind.MESSAGES if kind is RowKind.MESSAGES else RowKind.PROMPT_COMPLETION
    pair = (named.prompt or "prompt", named.completion or "completion")
    alpaca = ("instruction", "input", "output")
    messages = [named.messages] if named.messages else ["messages", "conversations"]
    texts = [named.text] if named.text else ["text", "content"]
    found = [
        *((RowKind.MESSAGES, (column,)) for column in messages),
        (paired, pair),
        *([] if named.prompt or named.completion else [(paired, alpaca)]),
        *((RowKind.TEXT, (column,)) for column in texts),
    ]
    usual = Shape(RowKind.TEXT, ("text",))
    system, tools = named.system or usual.system, (named.tools,) if named.tools else usual.tools
    asked = kind is not RowKind.AUTO
    return [Shape(each, columns, system=system, tools=tools, asked=asked) for each, columns in found]


def _named(named: Columns) -> set[str]:
    return {column for column in (named.messages, named.prompt, named.completion, named.text) if column}


def says_history(value: Any) -> bool:
    """Whether a value means earlier turns; of an illness there is a history too."""
    if isinstance(value, str):
        return value.lstrip().startswith("[")
    return isinstance(value, list) and any(isinstance(turn, list | dict) for turn in value)


def _refuse_preferences(row: Set[str], held: Mapping[str, Any], *, where: str) -> None:
    pair = next((each for each in _PREFERENCES if set(each) <= row), None)
    if pair is None and set(_JUDGED) <= row and isinstance(held["label"], bool):
        pair = ("completion", "label")
    if pair is not None:
        raise data_error(
            "PreferencePairs",
            f"{where}: the columns {pair[0]!r} and {pair[1]!r} say which answers are better, and there is no objective "
            "for preferences yet.",
            "To learn from one column alone, name it: spec.dataset.columns.messages (or completion, or text): "
            f"{'messages' if 'messages' in row else pair[0]}.",
        )


def _undetected(
    there: list[str], candidates: list[Shape], *, kind: RowKind, is_named: bool, where: str
) -> FinetuneError:
    if is_named:
        missing = [column for column in candidates[0].required if column not in there]
        return data_error(
            "ColumnMissing",
            f"{where}: there is no column {missing[0]!r}; there are {listed(there)}.",
            "Mend spec.dataset.columns.",
        )
    looked_for = " or ".join(dict.fromkeys(" + ".join(dict.fromkeys(shape.required)) for shape in candidates))
    asked = "" if kind is RowKind.AUTO else f" (spec.dataset.kind is {kind})"
    return data_error(
        "ColumnsUnknown",
        f"{where}: no column is what it should be{asked}: looked for {looked_for}; there are {listed(there)}.",
        "Name the columns in spec.dataset.columns: messages, or prompt and completion, or text"
        + ("." if kind is RowKind.AUTO else "; or set spec.dataset.kind: Auto."),
    )
