"""A model's chat template → the template that renders rows: the one that trains, with the spec's arguments in it.

In: a tokenizer, and `chatTemplate` and `chatTemplateArgs` of the spec. Out: a `Template`, which renders messages. Where TRL
ships a training form of exactly this template, that form trains: it keeps what the original leaves out of earlier turns
and marks what the assistant says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finetune_training.chat.forms import training_forms, with_arguments
from finetune_training.contract.dataset import GIVEN_TO_TEMPLATES
from finetune_training.contract.failure import user_error

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARKS = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
_WORDS = re.compile(r"</?\w+>|\s+|\w+")
_GIVEN = GIVEN_TO_TEMPLATES | {"raise_exception", "strftime_now"}
"""What the renderer itself gives to every template."""
HIDDEN = ("⟦think⟧", "⟦/think⟧")
"""Stand for `<think>` and `</think>` while a template renders that would take out what is between them."""
Message = dict[str, Any]
"""A turn of a conversation: its role, its content, its tool calls."""
Span = tuple[int, int]


@dataclass(frozen=True)
class Template:
    """`text`: Jinja. `tokens`: the special tokens by the names that templates use. `special`: the texts of all tokens that
    the tokenizer never splits. `source`: the name of TRL's template whose training form this is, or empty."""

    text: str
    tokens: tuple[tuple[str, Any], ...] = ()
    special: tuple[str, ...] = ()
    source: str = ""

    @property
    def marked(self) -> bool:
        return bool(MARKED.search(self.text))

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Any] = (), asks: bool = False, marks: bool = False
    ) -> tuple[str, list[Span]]:
        """The text, and with `marks` where it is marked as the assistant's. `asks`: the assistant's turn is begun. Raises
        whatever the template raises. A template that writes the begin token before text that has one already writes two:
        one is left."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, found = render_jinja_template(
            conversations=[list(messages)],
            tools=list(tools) or None,
            chat_template=self.text,
            add_generation_prompt=asks,
            return_assistant_tokens_mask=marks,
            **dict(self.tokens),
        )
        whole = texts[0] if marks else texts[0].replace(HIDDEN[0], "<think>").replace(HIDDEN[1], "</think>")
        text = one_beginning(whole, str(dict(self.tokens).get("bos_token") or ""))
        cut = len(whole) - len(text)
        return text, [(max(0, start - cut), stop - cut) for start, stop in found[0]] if marks else []

    def special_at(self, text: str) -> str:
        """The special token that `text` begins with, blanks aside; empty: none."""
        text = text.lstrip()
        return max((token for token in self.special if text.startswith(token)), key=len, default="")

    def special_before(self, text: str) -> str:
        """The special token that `text` ends with; empty: none."""
        return max((token for token in self.special if text.endswith(token)), key=len, default="")

    def ends(self, text: str) -> bool:
        """Whether the last of `text`, blanks aside, is a special token."""
        return text.rstrip().endswith(self.special)


def template_of(
    tokenizer: Any,
    own: str = "",
    arguments: Mapping[str, Any] | None = None,
    *,
    tools: Sequence[Any] = (),
    training: bool = True,
) -> Template:
    """The spec's `own` template, else the tokenizer's (that for tools, where it has one and there are some). `training`:
    in TRL's training form, where there is one."""
    try:
        text: str = own or tokenizer.get_chat_template(tools=list(tools) or None)
    except ValueError as error:
        raise user_error(
            "NoChatTemplate",
            "The rows are conversations, and the model's tokenizer has no chat template.",
            "Set spec.dataset.chatTemplate, or use an instruct model.",
            detail=str(error),
        ) from None
    source, form = training_forms().get(text, ("", text)) if training else ("", text)
    tokens = {name: tuple(value) if isinstance(value, list) else value for name, value in _names(tokenizer).items()}
    return Template(with_arguments(form, arguments or {}), tuple(sorted(tokens.items())), _special(tokenizer), source)


def _names(tokenizer: Any) -> dict[str, Any]:
    names: dict[str, Any] = tokenizer.special_tokens_map
    return names


def _special(tokenizer: Any) -> tuple[str, ...]:
    return tuple(sorted({*tokenizer.all_special_tokens, *_added(tokenizer, len(tokenizer))} - {""}))


@lru_cache(maxsize=4)
def _added(tokenizer: Any, _: int) -> frozenset[str]:
    """The tokens that may end something: some tokenizers have thousands, and `</think>`, `<table>` or runs of blanks among
    them, which end nothing."""
    added = tokenizer.added_tokens_decoder.values()
    return frozenset(token.content for token in added if token.special or not _WORDS.fullmatch(token.content))


def check_arguments(template: Template, arguments: Mapping[str, Any]) -> None:
    """Raises a User error for an argument that the template never reads."""
    asked = asked_by(template.text)
    unknown = [name for name in arguments if name not in asked]
    if unknown:
        given = {name for name, _ in template.tokens} | set(arguments) | _GIVEN
        there = sorted(name for name in asked - given if not name.endswith("_token"))
        raise user_error(
            "ChatTemplateArgUnknown",
            f"spec.dataset.chatTemplateArgs: the chat template never reads {unknown[0]!r}; "
            f"it reads {', '.join(there) or 'no arguments'}.",
            "Mend its name, or take it out.",
        )


def asked_by(template: str) -> set[str]:
    """The names that a template reads from outside, but for the defaults that `with_arguments` put there. One that it sets
    somewhere is from outside where it asks whether it is defined."""
    from jinja2 import Environment, TemplateError, meta
    from jinja2.ext import loopcontrols

    written = re.sub(r"^(\{%- if \w+ is not defined %\}\{%- set .*?%\}\{%- endif %\})+", "", template)
    try:
        tree = Environment(extensions=[loopcontrols]).parse(_MARKS.sub("", written))
    except TemplateError:  # it fails where it is used, with its line
        return set(re.findall(r"\w+", written))
    asks = r"(\w+)\s+is\s+(?:not\s+)?defined|(\w+)\s*\|\s*default"
    own = set(re.findall(r"\bset\s+(\w+)", written)) - {name for pair in re.findall(asks, written) for name in pair}
    return set(meta.find_undeclared_variables(tree)) - own


def one_beginning(text: str, begin: str) -> str:
    """One begin token at the text's beginning where there are several."""
    while begin and text.startswith(begin * 2):
        text = text.removeprefix(begin)
    return text
