"""Which tokens a row becomes, and which of them are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from finetune_training.contract.dataset import LossOn
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.data.render import NO_SUPERVISED_TOKEN, Document, Options, Outcome, render
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.sources.rows import Messages, PromptCompletion, Row, Text
from tests.tiny import CHATML, CHATML_MARKED, EOS, write_tokenizer

TURNS = [("system", "be kind"), ("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "zwei — 2")]
CHAT = Messages([{"role": role, "content": content} for role, content in TURNS], "f.jsonl:3")
WHOLE = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in TURNS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), trust_remote_code=False)


@pytest.fixture(scope="module")
def slow() -> Any:
    return ByT5Tokenizer()


def _render(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    loss_on: LossOn = LossOn.ASSISTANT,
    chat_template: str = "",
) -> list[Outcome]:
    return render(rows, tokenizer, Options(max_length, loss_on, chat_template))


def _learnt(document: Document, tokenizer: Any) -> list[str]:
    """The runs of tokens that are learnt, as text."""
    assert len(document.labels) == len(document.input_ids)
    assert all(label in (-100, token) for token, label in zip(document.input_ids, document.labels, strict=True))
    runs: list[list[int]] = [[]]
    for label in document.labels:
        if label == -100:
            runs.append([])
        else:
            runs[-1].append(label)
    return [str(tokenizer.decode(run)) for run in runs if run]


def _text(document: Document, tokenizer: Any) -> str:
    return str(tokenizer.decode(document.input_ids))


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED])
@pytest.mark.parametrize(
    ("loss_on", "learnt"),
    [
        (LossOn.ASSISTANT, ["1<|im_end|>", "zwei — 2<|im_end|>"]),
        (LossOn.COMPLETION, ["zwei — 2<|im_end|>"]),
        (LossOn.ALL, [WHOLE.removeprefix("<|im_start|>")]),
    ],
)
def test_of_a_conversation_the_assistants_turns_are_learnt_with_their_ends(
    tokenizer: Any, template: str, loss_on: LossOn, learnt: list[str]
) -> None:
    [outcome] = _render([CHAT], tokenizer, loss_on=loss_on, chat_template=template)
    [document] = outcome.documents
    assert _text(document, tokenizer) == WHOLE
    assert _learnt(document, tokenizer) == learnt
    assert tokenizer.decode(document.input_ids[: document.prompt]) == WHOLE[: WHOLE.index("1<|im_end|>")]


def test_the_tokenizers_own_template_is_used_when_the_spec_has_none(tokenizer: Any) -> None:
    assert _render([CHAT], tokenizer) == _render([CHAT], tokenizer, chat_template=CHATML)


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED])
def test_a_tokenizer_without_offsets_learns_the_same_text(slow: Any, template: str) -> None:
    [outcome] = _render([CHAT], slow, chat_template=template)
    assert _text(outcome.documents[0], slow) == WHOLE
    # Its end of a turn is ordinary text, and the line end after that belongs to the turn.
    ends = "<|im_end|>" if template == CHATML_MARKED else "<|im_end|>\n"
    assert _learnt(outcome.documents[0], slow) == [f"1{ends}", f"zwei — 2{ends}"]


def test_without_any_chat_template_the_user_is_told_what_to_set(slow: Any) -> None:
    with pytest.raises(FinetuneError) as caught:
        _render([CHAT], slow)
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "NoChatTemplate")
    assert "spec.dataset.chatTemplate" in failure.remedy


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}\n{{ m.role }", "in its line 2: unexpected '}'"),
        ("\n\n{{ raise_exception('no system role') }}", "in its line 3: no system role"),
        ("\n{{ messages[0].content + 3 }}", "in its line 2: can only concatenate str"),
    ],
)
def test_a_template_that_fails_is_the_users_with_jinjas_words_and_line(
    tokenizer: Any, template: str, says: str
) -> None:
    with pytest.raises(FinetuneError) as caught:
        _render([CHAT], tokenizer, chat_template=template)
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "ChatTemplateFailed")
    assert says in failure.message
    assert "f.jsonl:3, whose roles are system, user, assistant, user, assistant" in failure.message


def test_a_template_that_rewrites_what_came_before_trains_all_the_same(tokenizer: Any) -> None:
    """As templates do that show a model's thoughts in the last turn only."""
    template = CHATML.replace("message['content']", "('<think></think>' if loop.last else '') + message['content']")
    [outcome] = _render([CHAT], tokenizer, chat_template=template)
    assert _learnt(outcome.documents[0], tokenizer) == ["1<|im_end|>", "<think></think>zwei — 2<|im_end|>"]


def test_a_template_in_which_a_turn_cannot_be_told_is_refused_unless_nobody_asks(tokenizer: Any) -> None:
    template = CHATML.replace("message['content']", "(messages | length) ~ '<think>' ~ message['content'] * 2")
    with pytest.raises(FinetuneError) as caught:
        _render([CHAT], tokenizer, chat_template=template)
    failure = caught.value.failure
    assert (failure.cls, failure.reason) == (FailureClass.USER, "ChatTemplateNotByPrefix")
    assert "f.jsonl:3, message 2" in failure.message
    assert "{% generation %}" in failure.remedy
    assert "think" in failure.detail
    [outcome] = _render([CHAT], tokenizer, chat_template=template, loss_on=LossOn.ALL)
    assert outcome.documents


def test_a_conversation_without_an_assistant_is_dropped_and_shown(tokenizer: Any) -> None:
    [outcome] = _render([Messages(CHAT.messages[:2], "f:1")], tokenizer)
    assert outcome == Outcome([], NO_SUPERVISED_TOKEN, False, WHOLE[: WHOLE.index("<|im_start|>assistant")])


@pytest.mark.parametrize(
    ("loss_on", "learnt"),
    [
        (LossOn.ASSISTANT, [f" I will not{EOS}"]),
        (LossOn.COMPLETION, [f" I will not{EOS}"]),
        (LossOn.ALL, [f"ilt thou? I will not{EOS}"]),
    ],
)
def test_of_a_pair_the_completion_and_the_end_are_learnt(tokenizer: Any, loss_on: LossOn, learnt: list[str]) -> None:
    [outcome] = _render([PromptCompletion("Wilt thou?", " I will not", "f:1")], tokenizer, loss_on=loss_on)
    [document] = outcome.documents
    assert _text(document, tokenizer) == f"Wilt thou? I will not{EOS}"
    assert [text.lstrip("Ww") for text in _learnt(document, tokenizer)] == learnt
    assert tokenizer.decode(document.input_ids[: document.prompt]) == "Wilt thou?"


@pytest.mark.parametrize(("prompt", "completion"), [("sum", "mer's day"), ("a ", "summer"), ("", "day")])
def test_a_prompts_tokens_are_those_it_has_alone(tokenizer: Any, prompt: str, completion: str) -> None:
    """Whatever tokens would reach across the border: this is how the model will be asked."""
    [outcome] = _render([PromptCompletion(prompt, completion, "f:1")], tokenizer)
    [document] = outcome.documents
    assert document.input_ids[: document.prompt] == tokenizer.encode(prompt, add_special_tokens=False)
    assert _text(document, tokenizer) == f"{prompt}{completion}{EOS}"


def test_an_end_that_is_there_is_not_written_twice(tokenizer: Any) -> None:
    [outcome] = _render([Text(f"the end{EOS}", "f:1")], tokenizer)
    assert _text(outcome.documents[0], tokenizer) == f"the end{EOS}"


def test_of_a_text_everything_is_learnt_but_the_first_token(tokenizer: Any) -> None:
    [outcome] = _render([Text("Shall I compare thee", "f:1")], tokenizer)
    [document] = outcome.documents
    assert _text(document, tokenizer) == f"Shall I compare thee{EOS}"
    assert document.labels == [-100, *document.input_ids[1:]]


def test_the_beginning_is_written_where_the_tokenizer_writes_it(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(write_tokenizer(tmp_path), trust_remote_code=False)
    tokenizer.bos_token = "<|im_start|>"
    rows: list[Row] = [Text("day", "f:1"), PromptCompletion("day", " night", "f:2")]
    assert [_text(outcome.documents[0], tokenizer)[:3] for outcome in _render(rows, tokenizer)] == ["day", "day"]
    start = [("<|im_start|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=start)
    outcomes = _render([*rows, CHAT], tokenizer)
    assert [_text(outcome.documents[0], tokenizer) for outcome in outcomes] == [
        f"<|im_start|>day{EOS}",
        f"<|im_start|>day night{EOS}",
        WHOLE,
    ]
    assert _learnt(outcomes[1].documents[0], tokenizer) == [f" night{EOS}"]


@pytest.mark.parametrize("length", [32, 33, 48, 64, 65, 96, 97])
def test_a_long_text_is_split_and_nothing_is_lost(tokenizer: Any, length: int) -> None:
    text = str(tokenizer.decode(tokenizer.encode("summer's day " * 60)[: length - 1]))
    assert len(tokenizer.encode(text)) == length - 1
    [outcome] = _render([Text(text, "f:1")], tokenizer, max_length=32)
    pieces = outcome.documents
    assert [token for piece in pieces for token in piece.input_ids] == [*tokenizer.encode(text), tokenizer.eos_token_id]
    assert all(2 <= len(piece.input_ids) <= 32 for piece in pieces)
    assert all(piece.labels == [-100, *piece.input_ids[1:]] for piece in pieces)
    assert len(pieces) == -(-length // 32)
    assert not outcome.truncated


def test_a_long_conversation_is_cut_and_counted(tokenizer: Any) -> None:
    [whole] = _render([CHAT], tokenizer)
    length = len(whole.documents[0].input_ids)
    [outcome] = _render([CHAT], tokenizer, max_length=length - 3)
    assert outcome.truncated
    assert outcome.documents[0].input_ids == whole.documents[0].input_ids[: length - 3]
    [outcome] = _render([CHAT], tokenizer, max_length=length)
    assert not outcome.truncated


def test_a_row_whose_learnt_tokens_are_all_cut_away_is_dropped(tokenizer: Any) -> None:
    rows: list[Row] = [PromptCompletion("to be or not " * 20, "to be", "f:1"), Messages(CHAT.messages[:3], "f:2")]
    for outcome in _render(rows, tokenizer, max_length=16):
        assert (outcome.documents, outcome.dropped, outcome.truncated) == ([], NO_SUPERVISED_TOKEN, True)
        assert outcome.shown


def test_a_batch_of_all_kinds_keeps_its_order(tokenizer: Any) -> None:
    rows: list[Row] = [Text("a b", "1"), CHAT, PromptCompletion("p", "c", "2"), Text("c d", "3"), CHAT]
    assert _render(rows, tokenizer) == [_render([row], tokenizer)[0] for row in rows]
    assert _render([], tokenizer) == []


def test_a_tokenizer_that_truncates_by_itself_is_kept_from_it(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path), trust_remote_code=False)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    [outcome] = _render([Text("Shall I compare thee to a summer's day?", "f:1")], tokenizer)
    assert _text(outcome.documents[0], tokenizer) == f"Shall I compare thee to a summer's day?{EOS}"


def test_a_tokenizer_without_an_end_is_the_users_to_mend(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path), trust_remote_code=False)
    tokenizer.eos_token = None
    with pytest.raises(FinetuneError, match="no end-of-text token"):
        _render([Text("day", "f:1")], tokenizer)
