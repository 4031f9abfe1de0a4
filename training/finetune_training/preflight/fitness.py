"""Whether a tokenizer, a model and a job fit each other, before a byte of weights is moved.

In: a model's folder without its weights (where they are there, their headers are read too), and the spec. Out: `Finding`s: for
each check what was found, and for what is wrong the User error that a run ends with. Here are the checks that need the
config and the tokenizer; what LoRA adapts is in adapters.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_training.contract.dataset import RowKind
from finetune_training.contract.failure import user_error
from finetune_training.contract.spec import RunSpec
from finetune_training.model.headers import context_of, damaged, embeddings_of, text_config
from finetune_training.model.modelfiles import CONFIG
from finetune_training.model.refusals import weights_damaged
from finetune_training.preflight.finding import Finding, doubtful, good, wrong

_SHOWN = 4
_LIKE_TOKENS = re.compile(r"<\|[^<>|\s]{1,40}\|>|<\uff5c[^<>\uff5c\s]{1,40}\uff5c>")
"""What nobody writes in a template unless it is meant to be one token."""
_LIKE_TAGS = re.compile(r"<[a-z]+(?:_[a-z]+)+>|\[/?[A-Z_]{2,24}\]|<think>")
"""What is meant so more often than not."""
_NOT_TEXT = re.compile(r"image|audio|video|vision|speech|sound|unused|reserved", re.IGNORECASE)
"""Placeholders of models that also see or hear. The text-only members of such a family have the tokens and no embeddings
for them, as Gemma 3 1B."""


@dataclass(frozen=True)
class Facts:
    """What the checks look at. `config`: of the language model, where it is part of another one. `embeddings`: how many tokens
    the model knows, None where nobody says. `template`: of chats, empty for none. `damage`: a file of weights, where they are
    there, that cannot be whole, and why."""

    spec: RunSpec
    config: dict[str, Any]
    embeddings: int | None
    tokenizer: Any
    template: str
    damage: tuple[str, str] | None = None


def facts_of(folder: Path, spec: RunSpec, tokenizer: Any) -> Facts:
    """The facts of the model in `folder`, whose `tokenizer` is loaded already."""
    template = _template(spec, tokenizer)
    return Facts(spec, text_config(folder), embeddings_of(folder), tokenizer, template, damaged(folder))


def check_fitness(facts: Facts) -> list[Finding]:
    """What of `facts` fits together and what does not, in an order that a person reads. Pure."""
    checks = (vocabulary, special_tokens, positions, padding, end_token, chat_template, template_tokens, weights)
    return [finding for check in checks for finding in check(facts)]


def vocabulary(facts: Facts) -> Iterator[Finding]:
    check, rows = "vocabulary", facts.embeddings
    if rows is None:
        yield good(check, f"{CONFIG} does not say how many tokens the model knows.")
        return
    tokens: dict[str, int] = facts.tokenizer.get_vocab()
    count = max(tokens.values(), default=-1) + 1
    without = [token for token, place in sorted(tokens.items(), key=lambda each: each[1]) if place >= rows]
    if not without:
        yield good(check, f"{count:,} tokens, {rows:,} embeddings.")
        return
    message = f"The tokenizer has {count} tokens, and the model has embeddings for {rows}: none for {_some(without)}."
    if all(_NOT_TEXT.search(token) for token in without) and not _used(without, facts):
        yield doubtful(check, message, "Rows must not contain these tokens. They stand for what is not text.")
        return
    remedy = (
        "Take the tokenizer that came with this model, or give the model more embeddings first "
        f"(model.resize_token_embeddings({count}), save_pretrained), and name that folder in spec.model.uri."
    )
    yield wrong(check, user_error("TokensWithoutEmbeddings", message, remedy))


def special_tokens(facts: Facts) -> Iterator[Finding]:
    """What the config itself says of them: torch refuses to make embeddings whose padding lies outside."""
    check, rows = "special tokens", facts.embeddings
    said = {name: facts.config.get(name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    outside = {name: ids for name, ids in said.items() if rows is not None and any(each >= rows for each in _ids(ids))}
    for name, ids in outside.items():
        message = f"{CONFIG} says {name}: {ids}, and the model has embeddings for {rows} tokens."
        remedy = f"Mend {name} in the model's {CONFIG}: the tokenizer says {getattr(facts.tokenizer, name)}."
        if name == "pad_token_id":
            yield wrong(check, user_error("TokenOutsideVocabulary", message, remedy))
        else:
            yield doubtful(check, message, remedy)
    if not outside:
        begin, end = facts.tokenizer.bos_token, facts.tokenizer.eos_token
        yield good(
            check, f"begin {begin or 'none'}, end {end or 'none'}, padding {facts.tokenizer.pad_token or 'none'}."
        )


def positions(facts: Facts) -> Iterator[Finding]:
    check, limit, length = "positions", context_of(facts.config), facts.spec.dataset.max_length
    window = facts.config.get("sliding_window")
    seen = f" Some layers see the last {window:,} only." if isinstance(window, int) and window < length else ""
    if limit is None:
        yield good(check, f"{CONFIG} names no limit.{seen}")
    elif length <= limit:
        yield good(check, f"{length:,} of {limit:,}.{seen}")
    else:
        message = f"spec.dataset.maxLength: {length} is more than the {limit} tokens that this model takes."
        yield wrong(check, user_error("SamplesTooLong", message, f"Set it to {limit} or less."))


def padding(facts: Facts) -> Iterator[Finding]:
    token, end = facts.tokenizer.pad_token, facts.tokenizer.eos_token
    said = token or f"none; {end} takes its place" if end else token or "none; token 0 takes its place"
    yield good("padding", f"{said}. Nothing is learnt of it.")


def end_token(facts: Facts) -> Iterator[Finding]:
    check, kind = "end token", facts.spec.dataset.kind
    if facts.tokenizer.eos_token_id is not None:
        yield good(check, f"{facts.tokenizer.eos_token}.")
        return
    message = "The model's tokenizer has no end-of-text token, so the model could not learn to stop."
    remedy = "Name one as eos_token in the model's tokenizer_config.json."
    if kind in (RowKind.TEXT, RowKind.PROMPT_COMPLETION):
        yield wrong(check, user_error("NoEndToken", message, remedy))
    else:
        yield doubtful(check, message, remedy)


def chat_template(facts: Facts) -> Iterator[Finding]:
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    check, own = "chat template", bool(facts.spec.dataset.chat_template)
    if not facts.template:
        if facts.spec.dataset.kind is RowKind.MESSAGES:
            message = "The rows are conversations, and the model's tokenizer has no chat template."
            remedy = "Set spec.dataset.chatTemplate, or use an instruct model."
            yield wrong(check, user_error("NoChatTemplate", message, remedy))
        else:
            yield good(check, "none.")
        return
    asked = [{"role": "user", "content": "Hello"}]
    try:
        render_jinja_template([asked], chat_template=facts.template, **facts.tokenizer.special_tokens_map)
    except TemplateSyntaxError as error:
        message = f"The chat template fails in its line {error.lineno}: {error.message}."
        where = (
            "spec.dataset.chatTemplate" if own else "the tokenizer's chat template, or set spec.dataset.chatTemplate"
        )
        yield wrong(check, user_error("ChatTemplateFailed", message, f"Mend {where}."))
        return
    except Exception:  # whatever it raises: it may want what this conversation does not have
        pass
    yield good(check, "spec.dataset.chatTemplate." if own else "the tokenizer's.")


def template_tokens(facts: Facts) -> Iterator[Finding]:
    """What a template writes as if it were one token. A template that came with its tokenizer may split tags on purpose."""
    check, own = "tokens of the template", bool(facts.spec.dataset.chat_template)
    written = _LIKE_TOKENS.findall(facts.template) + (_LIKE_TAGS.findall(facts.template) if own else [])
    split = {text: pieces for text in dict.fromkeys(written) if len(pieces := _pieces(text, facts.tokenizer)) > 1}
    if not split:
        if facts.template:
            yield good(check, f"{len(set(written))}, each one token of the tokenizer.")
        return
    shown = "; ".join(f"{text} is {' '.join(map(repr, pieces))}" for text, pieces in list(split.items())[:_SHOWN])
    more = f" (and {len(split) - _SHOWN} more)" if len(split) > _SHOWN else ""
    yield doubtful(
        check,
        f"The chat template writes what the tokenizer has no token for, so the model reads pieces: {shown}{more}.",
        "Take a template that belongs to this tokenizer, or add the tokens to the tokenizer and the model first "
        "(add_special_tokens, resize_token_embeddings).",
    )


def weights(facts: Facts) -> Iterator[Finding]:
    if facts.damage:
        yield wrong("weights", weights_damaged(facts.spec.model.uri, *facts.damage))
    said = facts.config.get("quantization_config")
    if said:
        method = said.get("quant_method", "an unknown method") if isinstance(said, dict) else said
        yield doubtful(
            "weights",
            f"The model's weights are quantised ({method}); training such a base was not tried.",
            "Name the same model in BF16, if there is one.",
        )


def _template(spec: RunSpec, tokenizer: Any) -> str:
    if spec.dataset.chat_template:
        return spec.dataset.chat_template
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:  # it has none
        return ""


def _used(tokens: list[str], facts: Facts) -> bool:
    """Whether every row may have some of `tokens`."""
    special = {token for token in facts.tokenizer.special_tokens_map.values() if isinstance(token, str)}
    return any(token in special or token in facts.template for token in tokens)


def _pieces(text: str, tokenizer: Any) -> list[str]:
    pieces: list[str] = tokenizer.tokenize(text)
    return pieces


def _ids(said: Any) -> list[int]:
    return [each for each in (said if isinstance(said, list) else [said]) if isinstance(each, int)]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
