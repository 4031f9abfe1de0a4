"""The turns of long conversations, found at once, are those that beginnings of the conversation show one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_training.chat.habits import habits_of
from finetune_training.chat.template import Message, Span, Template, template_of
from finetune_training.contract.dataset import LossOn
from finetune_training.contract.failure import FinetuneError
from finetune_training.data import spans
from finetune_training.data.conversations import render_chat
from finetune_training.data.turns import Conversation, with_end
from finetune_training.sources.rows import Messages
from tests.templates import TOOL, originals, tokenizer_of_all
from tests.tiny import CHATML
from tests.unit.training.data.families import FAMILIES, template_text, tokenizer_of

TURNS = 6
RENDERINGS = 4
"""Of a conversation of any length: itself, the last prompt, and all turns changed, perhaps twice."""
UNTOLD = {"deepseekv3", "deepseek_v3"}
"""With tools, these write the header before the first call only, and later calls after the user's own words."""


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _says(content: str, thought: str = "") -> Message:
    return {"role": "assistant", "content": content} | ({"reasoning_content": thought} if thought else {})


def _calls(number: int, thought: str = "") -> Message:
    function = {"name": "weather", "arguments": {"city": "Bergen", "day": number}}
    return _says("", thought) | {"tool_calls": [{"type": "function", "id": f"call0000{number}", "function": function}]}


def _result(number: int) -> Message:
    return {"role": "tool", "name": "weather", "tool_call_id": f"call0000{number}", "content": f"rain {number}"}


def _long(number: int) -> dict[str, list[Message]]:
    """A conversation of each kind, of so many questions."""
    turns = range(number)
    return {
        "plain": [each for i in turns for each in (_user(f"ask {i}"), _says(f"say {i}"))],
        "alike": [{"role": "system", "content": "rule"}, *[_user("ok"), _says("ok")] * number],
        "unanswered": [*(each for i in turns for each in (_user(f"ask {i}"), _says(f"say {i}"))), _user("ask")],
        "thoughts": [each for i in turns for each in (_user(f"ask {i}"), _says(f"say {i}", f"muse {i}"))],
        "some thoughts": [
            each for i in turns for each in (_user(f"ask {i}"), _says(f"say {i}", f"muse {i}" if i % 2 else ""))
        ],
        "calls": [
            each
            for i in turns
            for each in (_user(f"ask {i}"), _calls(i, f"muse {i}"), _result(i), _says(f"say {i}", f"muse {i}"))
        ],
        "calls in a chain": [
            _user("ask"),
            *(each for i in turns for each in (_calls(i), _result(i))),
            _says("say"),
            _user("ask more"),
            _says("say more"),
        ],
    }


LONG = _long(TURNS)


def _conversation(template: Template, kind: str) -> Conversation:
    habits = habits_of(template)
    tools: tuple[dict[str, object], ...] = (dict(TOOL),) if "calls" in kind else ()
    return Conversation(tuple(habits.given(each) for each in LONG[kind]), tools, template, habits)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tokenizer_of_all(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def renderings(monkeypatch: pytest.MonkeyPatch) -> list[Template]:
    """One more, each time that a template renders."""
    seen: list[Template] = []
    render = Template.render

    def counted(template: Template, *args: Any, **kwargs: Any) -> Any:
        seen.append(template)
        return render(template, *args, **kwargs)

    monkeypatch.setattr(Template, "render", counted)
    return seen


def _check(template: Template, name: str, renderings: list[Template]) -> None:
    for kind in LONG:
        conversation = _conversation(template, kind)
        text = conversation.tried()
        if text is None:
            continue
        by_prefix = {place: spans._by_prefix(conversation, place, text) for place in conversation.assistants}
        renderings.clear()
        found = spans.find_turns(conversation, conversation.assistants, text)
        if name in UNTOLD and "calls" in kind:
            continue
        assert len(renderings) < RENDERINGS, (name, kind)
        for place, span in found.items():
            assert span is not None, (name, kind, place)
            exact = by_prefix[place]
            assert exact is None or _learnt(conversation, place, text, span) == _learnt(
                conversation, place, text, exact
            ), (name, kind, place)
        stops = [border for span in found.values() if span for border in span]
        assert stops == sorted(stops), (name, kind)


def _learnt(conversation: Conversation, place: int, text: str, span: Span) -> Span:
    end = "" if conversation.messages[place].get("tool_calls") else conversation.habits.end
    return with_end(text, span, conversation.template, end=end)


@pytest.mark.parametrize("name", originals())
def test_turns_found_at_once_are_those_that_beginnings_show(
    tokenizer: Any, name: str, renderings: list[Template]
) -> None:
    _check(template_of(tokenizer, "{# own #}" + originals()[name]), name, renderings)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if template_text(family)])
def test_turns_of_each_family_found_at_once_are_those_that_beginnings_show(
    tmp_path: Path, name: str, renderings: list[Template]
) -> None:
    tokenizer = tokenizer_of(FAMILIES[name], tmp_path)
    _check(template_of(tokenizer, "{# own #}" + str(template_text(FAMILIES[name]))), name, renderings)


def test_a_row_takes_no_more_renderings_the_longer_it_is(tokenizer: Any, renderings: list[Template]) -> None:
    """Qwen3 and R1 write earlier turns anew once more follows: no beginning shows where they are."""
    for name in ("qwen3", "deepseek_r1_distill"):
        template = template_of(tokenizer, "{# own #}" + originals()[name])
        for kind, rows in (LONG | {f"{kind} of ten times as many": row for kind, row in _long(60).items()}).items():
            if kind.startswith("calls") and name != "qwen3":
                continue
            habits_of(template)
            renderings.clear()
            render_chat(Messages(rows, "row", (TOOL,)), template, loss_on=LossOn.ASSISTANT)
            assert len(renderings) <= RENDERINGS, (name, kind)


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "phi3", "gemma", "llama3"])
def test_a_turn_that_quotes_the_template_is_learnt_whole(tokenizer: Any, name: str) -> None:
    template = template_of(tokenizer, "{# own #}" + originals()[name])
    quoted = _quoted(template)
    messages = [_user("ok"), _says(f"they write {quoted} so"), _user("ok"), _says("right"), _user("ok"), _says("done")]
    chat = render_chat(Messages(messages, "row"), template, loss_on=LossOn.ASSISTANT)
    learnt = [chat.text[start:stop] for start, stop in chat.turns]
    assert [said in text for said, text in zip((f"{quoted} so", "right", "done"), learnt, strict=True)] == [True] * 3
    assert "right" not in learnt[0]
    assert len(learnt[1]) < len(quoted)


def _quoted(template: Template) -> str:
    """What the template writes between two answers to the user's "ok"; templates take out words before `</think>`."""
    text, _ = template.render([_user("ok"), _says("first"), _user("ok"), _says("second")])
    return text.partition("first")[2].partition("second")[0].partition("<think>")[0]


def test_what_others_say_is_never_learnt_where_a_turn_has_no_header(tokenizer: Any) -> None:
    """An earlier turn's header is not this one's: DeepSeek-V3 writes later calls without any."""
    template = template_of(tokenizer, "{# own #}" + originals()["deepseekv3"])
    with pytest.raises(FinetuneError) as caught:
        render_chat(Messages(LONG["calls"], "row", (TOOL,)), template, loss_on=LossOn.ASSISTANT)
    assert caught.value.failure.reason == "ChatTemplateNotByPrefix"


def test_words_that_are_those_of_the_stand_ins_do_no_harm(tokenizer: Any) -> None:
    words = spans._STAND_IN.format(1)
    messages = [_user(words), _says("first"), _user("ok"), _says(words)]
    chat = render_chat(Messages(messages, "row"), template_of(tokenizer, CHATML), loss_on=LossOn.ASSISTANT)
    assert [chat.text[start:stop] for start, stop in chat.turns] == ["first<|im_end|>", f"{words}<|im_end|>"]
