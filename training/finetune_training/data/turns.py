"""A conversation's text → where the assistant's turns are in it. Pure.

In: a `Conversation`, which renders itself, whole or in part. Out: character spans, each from where the assistant begins to
speak up to and including the token that ends its turn. Marks in the template are read; where there are none, beginnings
of the conversation are rendered and compared with the whole; where these differ, because templates leave out what was
thought in earlier turns, one turn's words are changed, and what changes is the turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune_training.chat.habits import Habits, common
from finetune_training.chat.template import Message, Span, Template

_SENTINEL = "§finetune§"


@dataclass(frozen=True)
class Conversation:
    """Messages in the form that the template takes, and the template."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, object], ...]
    template: Template
    habits: Habits

    @property
    def assistants(self) -> list[int]:
        return [place for place, message in enumerate(self.messages) if message["role"] == "assistant"]

    def text(self, until: int | None = None, *, asks: bool = False) -> str:
        return self.template.render(self.messages[:until], tools=self.tools, asks=asks)[0]

    def marked(self) -> tuple[str, list[Span]]:
        """The text and what is marked in it; marks that touch are one."""
        text, marks = self.template.render(self.messages, tools=self.tools, marks=True)
        merged: list[Span] = []
        for start, stop in (mark for mark in marks if mark[0] < mark[1]):
            if merged and merged[-1][1] == start:
                start = merged.pop()[0]
            merged.append((start, stop))
        return text, [(_after_header(text, start, self.habits), stop) for start, stop in merged]

    def saying(self, place: int, words: str) -> Conversation:
        """The conversation in which the turn at `place` is these words alone."""
        said = self.habits.given({"role": self.messages[place]["role"], "content": words})
        return replace(self, messages=(*self.messages[:place], said, *self.messages[place + 1 :]))


def find_turn(conversation: Conversation, place: int, text: str) -> Span | None:
    """Where the turn of the message at `place` is in the conversation's text; None: it cannot be told."""
    return _by_prefix(conversation, place, text) or _by_change(conversation, place, text)


def with_end(text: str, span: Span, template: Template, *, end: str = "") -> Span:
    """The span up to and including the token that ends the turn. Blanks after it belong to the template; where the turn has
    no end of its own, the special token after it is its end: the next role's. `end`: the one that ends an answer, where
    another is no end to learn: what follows it ends the whole text, and a template that writes another one into earlier turns
    does not want it said."""
    start, stop = span
    said = text[start:stop].rstrip()
    if template.ends(said):
        if end and not said.endswith(end):
            said = said.removesuffix(template.special_before(said)).rstrip()
        return start, start + len(said)
    token = template.special_at(text[stop:])
    return start, text.index(token, stop) + len(token) if token else stop


def _by_prefix(conversation: Conversation, place: int, text: str) -> Span | None:
    before = conversation.text(place, asks=True)
    last = place == len(conversation.messages) - 1
    through = text if last else conversation.text(place + 1)
    if not text.startswith(through):
        return None
    stated = before.removesuffix(conversation.habits.header)
    starts = [before, *(stated + header for header in conversation.habits.headers)]
    return next(((len(start), len(through)) for start in starts if through.startswith(start)), None)


def _by_change(conversation: Conversation, place: int, text: str) -> Span | None:
    changed = conversation.saying(place, _SENTINEL).text()
    before, _, rest = changed.partition(_SENTINEL)
    if changed.count(_SENTINEL) != 1 or not text.endswith(rest):
        return None
    stop = len(text) - len(rest)
    start = _begin(text, common(before, text), conversation.habits)
    end = _end(conversation, place, rest)
    return None if start is None or end is None or start > stop else (start, stop + end)


def _begin(text: str, same: int, habits: Habits) -> int | None:
    """Where the turn begins: after the last header in what comes before its words."""
    for header in habits.headers:
        found = text.rfind(header, 0, same)
        if found >= 0 and header:
            return found + len(header)
        if found >= 0:  # blanks before the words are the template's, and come after the prompt
            blanks = habits.lead if habits.lead.isspace() and text.endswith(habits.lead, 0, same) else ""
            return same - len(blanks)
    return None


def _end(conversation: Conversation, place: int, rest: str) -> int | None:
    """How much of the text after the turn's words belongs to the turn: what follows them in a conversation that ends here."""
    alone = replace(conversation, messages=conversation.messages[: place + 1]).saying(place, _SENTINEL).text()
    tail = alone.partition(_SENTINEL)[2]
    same = common(rest, tail)
    if same == len(tail) or conversation.template.ends(tail[:same]):
        return same
    token = conversation.template.special_at(rest)
    return len(rest) - len(rest.lstrip()) + len(token) if token else None


def _after_header(text: str, start: int, habits: Habits) -> int:
    """Marks may begin with or within the header. What the prompt writes, the model need not learn to say."""
    for header in filter(None, habits.headers):
        for written in range(len(header), -1, -1):
            if text[:start].endswith(header[:written]) and text.startswith(header, start - written):
                return start - written + len(header)
    return start
