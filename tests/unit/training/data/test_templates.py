"""Every chat template that the locked TRL ships, with a conversation of each shape: what is learnt, or why it is refused.

In: TRL's templates, and a tokenizer to which all their tokens are known. Out: the table below. Whoever raises TRL's version
reads here what has changed for people who train these models.
"""

from __future__ import annotations

from typing import Any

import pytest

from finetune_training.chat.forms import training_forms
from finetune_training.chat.habits import asked_in, habits_of, thoughts_of
from finetune_training.chat.template import Template, template_of
from finetune_training.contract.dataset import LossOn
from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.data.conversations import Chat, render_chat
from finetune_training.sources.rows import Messages
from tests.templates import SHAPES, originals, tokenizer_of_all

# learnt: all that the assistant says.  lost: so, and a warning that thoughts are left out (of earlier turns, or all of them).
# no-list: so, and a warning that the list of tools is left out.  no-calls: refused, the template writes no tool calls.
# fails: refused, the template itself raises: it takes no such roles.
TABLE = """
template                one       several   system    tools     thoughts  inline
cohere                  learnt    learnt    learnt    fails     lost      learnt
cohere2                 learnt    learnt    learnt    fails     lost      learnt
deepseek_r1_distill     learnt    learnt    learnt    no-calls  learnt    learnt
deepseekv3              learnt    learnt    learnt    no-list   lost      lost
diffusion_gemma         learnt    learnt    learnt    learnt    lost      lost
gemma                   learnt    learnt    fails     fails     lost      learnt
gemma3                  learnt    learnt    learnt    fails     lost      learnt
gemma4                  learnt    learnt    learnt    learnt    lost      learnt
gemma4_v2               learnt    learnt    learnt    learnt    lost      learnt
gemma4_v3               learnt    learnt    learnt    learnt    lost      learnt
gemma4_v4               learnt    learnt    learnt    learnt    lost      learnt
gemma4_v5               learnt    learnt    learnt    learnt    lost      lost
glm4moe                 learnt    learnt    learnt    learnt    lost      lost
gptoss                  learnt    learnt    learnt    learnt    lost      lost
idefics3                learnt    learnt    learnt    no-calls  lost      learnt
lfm2                    learnt    learnt    learnt    no-calls  lost      learnt
lfm2_2_5                learnt    learnt    learnt    learnt    lost      lost
lfm2_2_5_v2             learnt    learnt    learnt    learnt    lost      lost
lfm2_2_5_vl             learnt    learnt    learnt    learnt    lost      lost
lfm2_v2                 learnt    learnt    learnt    learnt    lost      learnt
llama3                  learnt    learnt    learnt    no-calls  lost      learnt
llama3_1                learnt    learnt    learnt    learnt    lost      learnt
llama3_2                learnt    learnt    learnt    learnt    lost      learnt
llava_next              learnt    learnt    learnt    fails     lost      learnt
muse_glimmer            learnt    learnt    learnt    learnt    learnt    learnt
nemotron_3_5_lightning  learnt    learnt    learnt    learnt    lost      lost
nemotron_3_nano         learnt    learnt    learnt    learnt    lost      lost
nemotron_3_super        learnt    learnt    learnt    learnt    lost      lost
nemotron_3_ultra        learnt    learnt    learnt    learnt    lost      lost
phi3                    learnt    learnt    learnt    no-calls  lost      learnt
phi3_5                  learnt    learnt    learnt    no-calls  lost      learnt
qwen2_5                 learnt    learnt    learnt    learnt    lost      learnt
qwen2_5_vl              learnt    learnt    learnt    no-calls  lost      learnt
qwen3                   learnt    learnt    learnt    learnt    learnt    learnt
qwen3_5_nothink         learnt    learnt    learnt    learnt    learnt    learnt
qwen3_5_think           learnt    learnt    learnt    learnt    learnt    learnt
qwen3_6                 learnt    learnt    learnt    learnt    learnt    learnt
qwen3_8                 learnt    learnt    learnt    learnt    learnt    learnt
qwen3_instruct_2507     learnt    learnt    learnt    learnt    lost      learnt
qwen3_vl                learnt    learnt    learnt    learnt    lost      learnt
smolvlm                 learnt    learnt    learnt    no-calls  lost      learnt
"""
ROWS = {line.split()[0]: line.split()[1:] for line in TABLE.strip().splitlines()}
SHAPE_NAMES = ROWS.pop("template")
REFUSALS = {"ToolCallNotRendered": "no-calls", "ChatTemplateFailed": "fails"}
LOST = {(): "learnt", ("the assistant's thoughts",): "lost", ("the tools",): "no-list"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tokenizer_of_all(tmp_path_factory.mktemp("tokenizer"))


def _outcome(row: Messages, template: Template, loss_on: LossOn = LossOn.ASSISTANT) -> tuple[str, Chat | None]:
    try:
        chat = render_chat(row, template, loss_on=loss_on)
    except FinetuneError as error:
        failure = error.failure
    else:
        return LOST[chat.lost], chat
    assert failure.cls is FailureClass.USER
    assert row.where in failure.message
    assert failure.remedy
    return REFUSALS[failure.reason], None


def _check(row: Messages, chat: Chat, template: Template, outcome: str, *, last_only: bool = False) -> None:
    """Each turn is learnt with its words, calls and end, and nothing that others said."""
    learnt = [chat.text[start:stop] for start, stop in chat.turns]
    said = [message for message in row.messages if message["role"] == "assistant"][-1 if last_only else 0 :]
    assert len(learnt) == len(said)
    for text, message in zip(learnt, said, strict=True):
        thought, words = thoughts_of(message)
        assert words in text
        assert template.ends(text) or _ends_where_nobody_stops(text, chat.text, template)
        assert all(call["function"]["name"] in text for call in message.get("tool_calls", ()))
        assert "Bergen" in text or not message.get("tool_calls")
        assert not any(word in text for word in ("ask1", "ask2", "rule", "rain"))
        assert thought.strip() in text or outcome == "lost"
    assert "ask1" in chat.text[: chat.prompt]
    assert "say1" not in chat.text[: chat.prompt]
    assert chat.text.count("<s>") <= 1


def _ends_where_nobody_stops(said: str, text: str, template: Template) -> bool:
    """What the template writes after an earlier turn is another token than the one that ends an answer."""
    after = template.special_at(text[text.index(said) + len(said) :])
    return bool(after) and after != habits_of(template).end


def test_the_table_has_every_template_and_every_shape() -> None:
    assert list(ROWS) == list(originals())
    assert list(SHAPES) == SHAPE_NAMES


@pytest.mark.parametrize("name", ROWS)
def test_what_is_learnt_with_each_template(tokenizer: Any, name: str) -> None:
    template = template_of(tokenizer, originals()[name])
    outcomes = []
    for row in SHAPES.values():
        outcome, chat = _outcome(row, template)
        outcomes.append(outcome)
        if chat is not None:
            _check(row, chat, template, outcome)
    assert outcomes == ROWS[name]


@pytest.mark.parametrize("name", ROWS)
def test_the_users_words_are_found_in_a_prompt(tokenizer: Any, name: str) -> None:
    template = template_of(tokenizer, originals()[name])
    for row in SHAPES.values():
        outcome, chat = _outcome(row, template)
        if chat is not None:
            asked = asked_in(chat.text[: chat.prompt], template)
            # These write the system's words or the tools into the user's turn.
            assert asked == "ask1" or (name in ("gemma3", "llama3_1", "llama3_2") and asked.endswith("\nask1")), outcome


@pytest.mark.parametrize("name", ROWS)
def test_a_template_that_trl_does_not_know_trains_as_well(tokenizer: Any, name: str) -> None:
    """One comment more, and TRL's training form fits no longer: the turns are found without any marks."""
    template = template_of(tokenizer, "{# own #}" + originals()[name])
    assert not template.source
    for row, known in zip(SHAPES.values(), ROWS[name], strict=True):
        outcome, chat = _outcome(row, template)
        assert (chat is None) == (known in REFUSALS.values()), (row.where, outcome)
        if chat is not None:
            _check(row, chat, template, outcome)


@pytest.mark.parametrize("name", ROWS)
def test_of_the_last_turn_alone_only_the_last_must_be_there(tokenizer: Any, name: str) -> None:
    template = template_of(tokenizer, "{# own #}" + originals()[name])
    for row, known in zip(SHAPES.values(), ROWS[name], strict=True):
        if known == "fails":
            continue
        chat = render_chat(row, template, loss_on=LossOn.COMPLETION)
        _check(row, chat, template, "lost" if "the assistant's thoughts" in chat.lost else "learnt", last_only=True)
        assert ("tool calls" in chat.lost) <= (known == "no-calls"), row.where  # a call that is context is warned of


def test_trls_forms_are_those_that_trl_would_take(tokenizer: Any) -> None:
    """We pair them by their names, to import no torch; TRL by its own code."""
    from trl.chat_template_utils import get_training_chat_template

    for text, (name, form) in training_forms().items():
        tokenizer.chat_template = text
        assert get_training_chat_template(tokenizer) in (form, None), name
