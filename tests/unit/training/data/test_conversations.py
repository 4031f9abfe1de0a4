"""What a conversation's special tokens, tools, arguments and weights do to what is learnt of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer

from finetune_training.chat.forms import with_arguments
from finetune_training.chat.habits import end_of_turn
from finetune_training.contract.dataset import DatasetSpec, LossOn
from finetune_training.contract.failure import FinetuneError
from finetune_training.data.notices import notices
from finetune_training.data.render import Options, Outcome, render
from finetune_training.predict.prompts import encode
from finetune_training.sources.rows import Messages, PromptCompletion, Row, Text, identity
from tests.templates import SHAPES, originals, tokenizer_of_all
from tests.tiny import CHATML

SEVERAL = SHAPES["several"]
BEGIN, END = "<s>", "</s>"
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
ROLES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


@pytest.fixture
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """It puts the begin token before every text."""
    tokenizer = tokenizer_of_all(tmp_path_factory.mktemp("tokenizer"))
    start = [(BEGIN, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=start)
    return tokenizer


def _one(row: Row, tokenizer: Any, template: str = "", loss_on: LossOn = LossOn.ASSISTANT, **arguments: Any) -> Outcome:
    [outcome] = render([row], tokenizer, Options(1024, loss_on, template, arguments))
    return outcome


def _text(outcome: Outcome, tokenizer: Any) -> str:
    return str(tokenizer.decode(outcome.documents[0].input_ids))


def _learnt(outcome: Outcome, tokenizer: Any) -> str:
    """What is learnt; a bar where something between is not."""
    [document] = outcome.documents
    runs = "".join("|" if label == -100 else chr(label) for label in document.labels).split("|")
    return "|".join(tokenizer.decode([ord(token) for token in run]) for run in runs if run)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Text("<s>day", "f"), "<s>day</s>"),
        (Text("<s><s>day</s>\n", "f"), "<s>day</s>"),
        (Text("day", "f"), "<s>day</s>"),
        (PromptCompletion("<s>day", " night</s>", "f"), "<s>day night</s>"),
        (PromptCompletion("", "<s>night", "f"), "<s>night</s>"),
        (
            Messages([{"role": "user", "content": "<s>ask"}, {"role": "assistant", "content": "say"}], "f"),
            "<s>asksay</s>",
        ),
    ],
)
def test_there_is_one_begin_token_whoever_writes_it(tokenizer: Any, row: Row, text: str) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    outcome = _one(row, tokenizer, template)
    assert _text(outcome, tokenizer) == text
    assert BEGIN not in _learnt(outcome, tokenizer)


def test_a_prompt_has_the_tokens_that_training_gave_it(tokenizer: Any) -> None:
    for prompt in ("day", "<s>day", "<s><s>day"):
        assert tokenizer.decode(encode(tokenizer, prompt, chat=False)) == "<s>day"
    tokenizer.chat_template = originals()["gemma"]
    asked = tokenizer.decode(encode(tokenizer, "<s>ask1", chat=True))
    assert asked.count(BEGIN) == 2  # the user's own words stay
    trained = _one(SHAPES["one"], tokenizer).documents[0]
    assert trained.input_ids[: trained.prompt] == encode(tokenizer, SHAPES["one"].messages[:1], chat=True)


def test_where_a_turn_has_no_end_the_next_roles_token_is_learnt_as_it(tokenizer: Any) -> None:
    assert _learnt(_one(SEVERAL, tokenizer, ROLES), tokenizer) == "say1<|user|>|say2<|user|>"
    [said] = notices([SEVERAL], tokenizer, Options(64, LossOn.ASSISTANT, ROLES))
    assert "'<|user|>'" in said
    tokenizer.chat_template = ROLES
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|user|>")


def test_glm_ends_its_turns_with_the_users_token(tokenizer: Any) -> None:
    tokenizer.chat_template = originals()["glm4moe"]
    assert (
        _learnt(_one(SEVERAL, tokenizer), tokenizer)
        .split("|say")[0]
        .endswith("say1<|user|>|\n<think></think>\nsay2<|user|>")
    )
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|user|>")


def test_a_mark_that_stops_short_of_the_end_is_extended_to_it(tokenizer: Any) -> None:
    template = CHATML.replace(
        "message['content'] +", "'' }}{% generation %}{{ message['content'] }}{% endgeneration %}{{"
    )
    assert _learnt(_one(SHAPES["one"], tokenizer, template), tokenizer).endswith("say1<|im_end|>")


def test_a_template_without_any_end_is_refused_with_the_token(tokenizer: Any) -> None:
    with pytest.raises(FinetuneError, match="never stops") as caught:
        _one(SEVERAL, tokenizer, BARE.replace("\n", " "))
    assert caught.value.failure.reason == "NoEndOfTurn"
    assert END in caught.value.failure.remedy


def test_an_end_that_the_tokenizer_splits_is_named_with_its_pieces() -> None:
    [said] = notices([SEVERAL], ByT5Tokenizer(), Options(64, LossOn.ASSISTANT, CHATML))
    assert "'<|im_end|>'" in said
    assert "10 pieces ('<' '|' 'i' 'm'" in said


@pytest.mark.parametrize("template", [CHATML, originals()["qwen3"], originals()["phi3"], originals()["gptoss"]])
def test_a_turn_that_is_not_to_be_learnt_is_not(tokenizer: Any, template: str) -> None:
    row = replace(SEVERAL, unlearnt=frozenset({1}))
    for loss_on in (LossOn.ASSISTANT, LossOn.ALL):
        learnt = _learnt(_one(row, tokenizer, template, loss_on), tokenizer)
        assert "say1" not in learnt
        assert "say2" in learnt
        assert ("ask2" in learnt) == (loss_on is LossOn.ALL)
    assert not _one(replace(SEVERAL, unlearnt=frozenset({1, 3})), tokenizer, template).documents


def test_what_a_row_holds_besides_its_messages_is_part_of_it_where_it_is_set() -> None:
    assert SEVERAL.content == replace(SEVERAL, tools=(), unlearnt=frozenset()).content
    others = [replace(SEVERAL, tools=({"a": 1},)), replace(SEVERAL, unlearnt=frozenset({1}))]
    assert len({identity(row) for row in (SEVERAL, *others)}) == 3


def test_arguments_reach_the_template_in_training_and_in_the_artifact(tokenizer: Any) -> None:
    template = "{{ tone }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ eos_token }}"
    assert _text(_one(SHAPES["one"], tokenizer, template, tone="dry"), tokenizer).startswith("dry<|user|>")
    tokenizer.chat_template = with_arguments(template, {"tone": "dry"})
    assert tokenizer.decode(encode(tokenizer, "ask1", chat=True)).startswith("dry<|user|>")
    asked = tokenizer.apply_chat_template(SHAPES["one"].messages, tokenize=False, tone="wry")
    assert asked.startswith("wry<|user|>")  # whoever asks may still say otherwise


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "it's {{ %} \\ \n 🙂", ["a", {"b": None}], {}])
def test_an_argument_keeps_its_value(tokenizer: Any, value: object) -> None:
    seen = tokenizer.apply_chat_template(
        SHAPES["one"].messages, chat_template=with_arguments("{{ x | tojson }}", {"x": value}), tokenize=False
    )
    expected = tokenizer.apply_chat_template(
        SHAPES["one"].messages, chat_template="{{ x | tojson }}", tokenize=False, x=value
    )
    assert seen == expected


def test_an_argument_that_the_template_never_reads_is_refused_with_those_it_reads(tokenizer: Any) -> None:
    options = Options(64, LossOn.ASSISTANT, originals()["qwen3"], {"enable_thinkng": False})
    with pytest.raises(FinetuneError, match="never reads 'enable_thinkng'; it reads enable_thinking") as caught:
        notices([SEVERAL], tokenizer, options)
    assert caught.value.failure.reason == "ChatTemplateArgUnknown"
    assert notices([SEVERAL], tokenizer, replace(options, chat_template_args={"enable_thinking": False}))


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "no word"])
def test_an_argument_cannot_take_a_name_that_the_rows_have(name: str) -> None:
    with pytest.raises(ValueError, match="no name for an argument"):
        DatasetSpec.model_validate({"train": [{"uri": "a.jsonl"}], "chatTemplateArgs": {name: 1}})


def test_trls_form_is_named_once(tokenizer: Any) -> None:
    options = Options(64, LossOn.ASSISTANT, originals()["qwen3"])
    [said] = notices([SEVERAL, SHAPES["one"]], tokenizer, options)
    assert "(qwen3)" in said


def test_rows_without_thoughts_among_others_are_counted(tokenizer: Any) -> None:
    template = CHATML.removesuffix("{% endif %}") + "<think>\n{% endif %}"
    options = Options(64, LossOn.ASSISTANT, template)
    thought = replace(
        SHAPES["one"], messages=[SHAPES["one"].messages[0], {**SHAPES["one"].messages[1], "reasoning_content": "t"}]
    )
    [said] = [said for said in notices([thought, SEVERAL, SEVERAL], tokenizer, options) if "thought" in said]
    assert f"2 of 3 rows that were looked at have none ({SEVERAL.where})" in said
    [said] = [said for said in notices([SEVERAL], tokenizer, options) if "thought" in said]
    assert "and rows have none" in said
    assert [said for said in notices([thought], tokenizer, options) if "thought" in said] == []


def test_an_answer_that_the_template_leaves_out_is_refused(tokenizer: Any) -> None:
    template = CHATML.replace("message['content']", "(message['content'] if message['role'] == 'user' else '')")
    with pytest.raises(FinetuneError) as caught:
        _one(SHAPES["one"], tokenizer, template)
    assert caught.value.failure.reason == "AnswerNotRendered"


def test_an_answer_may_be_a_special_token_alone(tokenizer: Any) -> None:
    answer = tokenizer.eos_token
    row = Messages([{"role": "user", "content": "safe?"}, {"role": "assistant", "content": answer}], "f:1")
    assert answer in _learnt(_one(row, tokenizer, CHATML), tokenizer)


def test_a_prompt_has_the_tools_that_training_had(tokenizer: Any) -> None:
    tokenizer.chat_template = originals()["qwen2_5"]
    row = SHAPES["tools"]
    trained = _one(row, tokenizer).documents[0]
    assert encode(tokenizer, replace(row, messages=row.messages[:1]), chat=True) == trained.input_ids[: trained.prompt]
    assert "weather" in tokenizer.decode(trained.input_ids[: trained.prompt])
