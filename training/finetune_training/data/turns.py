"""A conversation that renders itself, as it is and otherwise, and where in its text a turn ends. Pure.

In: messages in the template's form, and the template. Out: texts, what is marked in them, and spans extended to the token
that ends the turn. Where nothing is marked, spans.py finds the turns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from finetune_training.chat.habits import Habits
from finetune_training.chat.template import Message, Span, Template
from finetune_training.chat.trial import assistant


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

    def tried(self, until: int | None = None, *, asks: bool = False) -> str | None:
        """The text of a part, or of messages that nobody has; None: the template takes no such conversation."""
        try:
            return self.text(until, asks=asks)
        except Exception:  # templates raise anything; what they raise of the row itself is told where it is rendered
            return None

    def marked(self) -> tuple[str, list[Span]]:
        """The text and what is marked in it; marks that touch are one."""
        text, marks = self.template.render(self.messages, tools=self.tools, marks=True)
        merged: list[Span] = []
        for start, stop in (mark for mark in marks if mark[0] < mark[1]):
            if merged and merged[-1][1] == start:
                start = merged.pop()[0]
            merged.append((start, stop))
        return text, [(_after_header(text, start, self.habits), stop) for start, stop in merged]

    def calls(self, place: int) -> bool:
        """Whether the turn at `place` calls tools, and the template writes that."""
        return self.habits.calls.written and bool(self.messages[place].get("tool_calls"))

    def saying(self, place: int, words: str) -> Conversation:
        """The conversation in which the turn at `place` is these words alone."""
        return self._with(place, self.habits.given({"role": self.messages[place]["role"], "content": words}))

    def calling(self, place: int, words: str) -> Conversation:
        """The conversation in which the turn at `place` only calls what it calls, at last with these words as the argument."""
        *calls, last = self.messages[place]["tool_calls"]
        function = last.get("function", last)
        argument = {"finetune": words}
        as_text = isinstance(function.get("arguments"), str)
        function = function | {"arguments": json.dumps(argument) if as_text else argument}
        last = last | {"function": function} if "function" in last else function
        return self._with(place, assistant("", tool_calls=[*calls, last]))

    def _with(self, place: int, message: Message) -> Conversation:
        return replace(self, messages=(*self.messages[:place], message, *self.messages[place + 1 :]))


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


def _after_header(text: str, start: int, habits: Habits) -> int:
    """Marks may begin with or within the header. What the prompt writes, the model need not learn to say."""
    for header in filter(None, habits.headers):
        for written in range(len(header), -1, -1):
            if text[:start].endswith(header[:written]) and text.startswith(header, start - written):
                return start - written + len(header)
    return start
