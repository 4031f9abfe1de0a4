"""Rows → tokens and what is learnt of them. Pure, given a tokenizer.

In: a batch of rows. Out: for each row an `Outcome`: its documents, or why it has none. `labels` is `input_ids`, or -100
where nothing is learnt; always so for a document's first token, because nothing predicts it. Rows go through the tokenizer
in batches, which is far quicker than one by one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from finetune_training.chat.habits import Thoughts, habits_of
from finetune_training.chat.template import Span, Template, template_of
from finetune_training.contract.dataset import LossOn
from finetune_training.data.conversations import refuse_endless, render_chat
from finetune_training.data.ends import bare, beginning, closed, ended, ending
from finetune_training.data.shards import IGNORE
from finetune_training.sources.rows import Messages, PromptCompletion, Row, Text

NO_SUPERVISED_TOKEN = "noSupervisedToken"
_BEGINNING = 24
"""Of a held-out text, this much is shown to a model that is to go on."""
_SHOWN = 120
"""Of a row that cannot be used, so many tokens are shown to the user."""


@dataclass(frozen=True)
class Options:
    """What of `spec.dataset` decides how a row becomes tokens."""

    max_length: int
    loss_on: LossOn
    chat_template: str = ""
    chat_template_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """Tokens that belong together. The first `prompt` of them ask; the rest is the answer."""

    input_ids: list[int]
    labels: list[int]
    prompt: int


@dataclass(frozen=True)
class Outcome:
    """What became of a row. `truncated`: its end is lost. `shown`: the beginning of a row that was dropped, as text. `lost`:
    what of a conversation the chat template leaves out."""

    documents: list[Document]
    dropped: str = ""
    truncated: bool = False
    shown: str = ""
    lost: tuple[str, ...] = ()


def render(rows: Sequence[Row], tokenizer: Any, options: Options) -> list[Outcome]:
    """The rows' outcomes, in their order."""
    outcomes: dict[int, Outcome] = {}
    for kind, outcomes_of in ((Messages, _chats), (PromptCompletion, _pairs), (Text, _texts)):
        places = [place for place, row in enumerate(rows) if isinstance(row, kind)]
        if places:
            outcomes.update(
                zip(places, outcomes_of([rows[place] for place in places], tokenizer, options), strict=True)
            )
    return [outcomes[place] for place in range(len(rows))]


def template_for(row: Messages, tokenizer: Any, options: Options) -> Template:
    """The template that renders this row: with some tokenizers another one where there are tools. Of the last turn alone the
    original needs no training form, and what comes before the turn is then as it is when the model is asked."""
    asked: dict[str, Any] = {"own": options.chat_template, "arguments": options.chat_template_args, "tools": row.tools}
    template = template_of(tokenizer, **asked, training=options.loss_on is not LossOn.COMPLETION)
    habits = habits_of(template)
    # DeepSeek-V3's form begins a thought in the prompt and takes it out of the answer.
    loses = template.source and habits.opens_thoughts and habits.thoughts is Thoughts.AS_WRITTEN
    return template_of(tokenizer, **asked, training=False) if loses else template


def _chats(rows: Sequence[Any], tokenizer: Any, options: Options) -> list[Outcome]:
    kinds = {bool(row.tools): row for row in rows}
    templates = {kind: template_for(row, tokenizer, options) for kind, row in kinds.items()}
    for template in templates.values():
        refuse_endless(template, tokenizer)
    chats = [render_chat(row, templates[bool(row.tools)], loss_on=options.loss_on) for row in rows]
    texts, prompts, learnt = zip(*((chat.text, chat.prompt, chat.turns) for chat in chats), strict=True)
    documents = _encode_spans(list(texts), list(prompts), list(learnt), tokenizer)
    fitted = (_truncate(document, options.max_length, tokenizer) for document in documents)
    return [replace(outcome, lost=chat.lost) for outcome, chat in zip(fitted, chats, strict=True)]


def _pairs(rows: Sequence[Any], tokenizer: Any, options: Options) -> list[Outcome]:
    """The prompt is tokenised as it will be when the model is asked: alone."""
    begin, end = beginning(tokenizer), ending(tokenizer)
    asks = [bare(row.prompt, tokenizer, begin) for row in rows]
    answers = [
        closed(row.completion if ask else bare(row.completion, tokenizer, begin), tokenizer)
        for ask, row in zip(asks, rows, strict=True)
    ]
    prompts = _encode(asks, tokenizer)
    wholes = _encode([ask + answer for ask, answer in zip(asks, answers, strict=True)], tokenizer)
    documents = []
    for answer, prompt, whole in zip(answers, prompts, wholes, strict=True):
        # A token may hold the prompt's end and the completion's beginning.
        crossed = whole[: len(prompt)] != prompt
        completion = _encode([answer], tokenizer)[0] if crossed else whole[len(prompt) :]
        asked = begin + prompt
        ids = ended(asked + completion, end)
        labels = ids if options.loss_on is LossOn.ALL else [IGNORE] * len(asked) + ids[len(asked) :]
        documents.append(Document(ids, labels, len(asked)))
    return [_truncate(document, options.max_length, tokenizer) for document in documents]


def _texts(rows: Sequence[Any], tokenizer: Any, options: Options) -> list[Outcome]:
    begin, end = beginning(tokenizer), ending(tokenizer)
    plain = [closed(bare(row.text, tokenizer, begin), tokenizer) for row in rows]
    texts = [ended(begin + ids, end) for ids in _encode(plain, tokenizer)]
    documents = (Document(ids, ids, min(_BEGINNING, (len(ids) + 1) // 2)) for ids in texts)
    return [_split(document, options.max_length) for document in documents]


def _truncate(document: Document, max_length: int, tokenizer: Any) -> Outcome:
    ids, labels = document.input_ids[:max_length], [IGNORE, *document.labels[1:max_length]]
    truncated = len(document.input_ids) > max_length
    if all(label == IGNORE for label in labels):
        return Outcome([], NO_SUPERVISED_TOKEN, truncated, tokenizer.decode(document.input_ids[:_SHOWN]))
    return Outcome([Document(ids, labels, min(document.prompt, len(ids)))], truncated=truncated)


def _split(document: Document, max_length: int) -> Outcome:
    ids = document.input_ids
    cuts = [*range(0, len(ids), max_length), len(ids)]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] == 1:
        cuts[-2] -= 1  # a piece of one token would teach nothing
    pieces = [ids[start:stop] for start, stop in pairwise(cuts)]
    return Outcome(
        [Document(piece, [IGNORE, *piece[1:]], min(document.prompt, (len(piece) + 1) // 2)) for piece in pieces]
    )


def _encode(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Tokens without any that the tokenizer would add."""
    if not tokenizer.is_fast:
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return [encoding.ids for encoding in _backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]


def _encode_spans(texts: list[str], borders: list[int], learnt: list[list[Span]], tokenizer: Any) -> list[Document]:
    """`borders`: where in each text the prompt ends. A token that reaches into a span belongs to it."""
    if not tokenizer.is_fast:
        return [_encode_pieces(*each, tokenizer) for each in zip(texts, borders, learnt, strict=True)]
    documents = []
    encodings = _backend(tokenizer).encode_batch(texts, add_special_tokens=False)
    for encoding, border, spans in zip(encodings, borders, learnt, strict=True):
        ids, offsets = encoding.ids, encoding.offsets
        labels = [IGNORE] * len(ids)
        for start, stop in spans:
            first = bisect_right(offsets, start, key=_stop)
            last = bisect_left(offsets, stop, key=_start)
            labels[first:last] = ids[first:last]
        documents.append(Document(ids, labels, bisect_right(offsets, border, key=_stop)))
    return documents


def _encode_pieces(text: str, border: int, spans: list[Span], tokenizer: Any) -> Document:
    """Without offsets, no token can be placed: the text is cut where learning begins or ends."""
    cuts = sorted({0, border, len(text), *(cut for span in spans for cut in span)})
    ids: list[int] = []
    labels: list[int] = []
    prompt = 0
    for start, stop in pairwise(cuts):
        piece = tokenizer.encode(text[start:stop], add_special_tokens=False)
        ids += piece
        labels += piece if any(first <= start < last for first, last in spans) else [IGNORE] * len(piece)
        prompt = len(ids) if stop <= border else prompt
    return Document(ids, labels, prompt)


def _backend(tokenizer: Any) -> Any:
    """The tokenizer's Rust half. A tokenizer.json may come with truncation or padding switched on."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _start(offset: Span) -> int:
    return offset[0]


def _stop(offset: Span) -> int:
    return offset[1]
