"""An answer depends on its prompt and on nothing else: not on the batch, the padding or who asks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.predict.generate import LanguageModel, Sampling, load_language_model, stop_tokens
from finetune_training.predict.prompts import encode
from tests.tiny import CHATML, CHATML_MARKED, write_model

PROMPTS = ["Love", "Shall I compare thee to a summer's day?", "So long as men can breathe or eyes can see,", "O no!"]
SHORT = Sampling(max_new_tokens=12)


# Weights so large that every token of the prompt sways the answer: small random ones say one thing to everyone.
@pytest.fixture(params=["llama", "gptj", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    return load_language_model(write_model(tmp_path / "model", request.param, initializer_range=0.4))


def refusal(answer: LanguageModel, prompt: object, sampling: Sampling = SHORT) -> tuple[FailureClass, str]:
    with pytest.raises(FinetuneError) as caught:
        answer.answer([prompt], sampling=sampling)  # type: ignore[list-item]
    assert caught.value.failure.remedy
    return caught.value.failure.cls, caught.value.failure.reason


def test_a_batch_answers_as_each_prompt_alone(model: LanguageModel) -> None:
    together = model.answer(PROMPTS, sampling=SHORT, chat=False)
    alone = [model.answer([prompt], sampling=SHORT, chat=False)[0] for prompt in PROMPTS]
    assert together == alone
    assert len(set(together)) == len(PROMPTS)  # else there would be nothing to mix up


def test_answers_keep_their_order_over_several_batches(model: LanguageModel) -> None:
    small = Sampling(max_new_tokens=12, batch_size=2)
    prompts = [*PROMPTS, *reversed(PROMPTS), PROMPTS[0]]
    answers = model.answer(prompts, sampling=small, chat=False)
    assert answers == [model.answer([prompt], sampling=SHORT, chat=False)[0] for prompt in prompts]


def test_greedy_answers_are_what_the_logits_say(model: LanguageModel) -> None:
    tokens = encode(model.tokenizer, PROMPTS[1], chat=False)
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            expected.append(int(model.model(torch.tensor([tokens + expected])).logits[0, -1].argmax()))
    assert not set(expected) & set(stop_tokens(model))
    assert model.complete([tokens], sampling=Sampling(max_new_tokens=6)) == [model.tokenizer.decode(expected)]


def test_a_temperature_draws_other_answers_and_the_seed_draws_them_again(model: LanguageModel) -> None:
    hot = Sampling(max_new_tokens=12, temperature=5.0, seed=1)
    first = model.answer(PROMPTS, sampling=hot, chat=False)
    assert first == model.answer(PROMPTS, sampling=hot, chat=False)
    other = Sampling(max_new_tokens=12, temperature=5.0, seed=2)
    assert first != model.answer(PROMPTS, sampling=other, chat=False)
    assert first != model.answer(PROMPTS, sampling=SHORT, chat=False)


def test_the_random_state_of_a_training_run_is_left_alone(model: LanguageModel) -> None:
    model.model.train()
    before = torch.get_rng_state()
    model.answer(PROMPTS, sampling=Sampling(max_new_tokens=3, temperature=1.0))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.model.training


def test_the_base_answers_below_its_adapter(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", initializer_range=0.4)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    tuned = load_language_model(base, adapter=tmp_path / "adapter")
    plain = load_language_model(base).answer(PROMPTS, sampling=SHORT)
    assert tuned.answer(PROMPTS, sampling=SHORT, base=True) == plain
    assert tuned.answer(PROMPTS, sampling=SHORT) != plain


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED])
def test_an_answer_ends_where_the_template_ends_a_turn(tmp_path: Path, template: str) -> None:
    model = load_language_model(write_model(tmp_path / "model", chat_template=template))
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_tokens(model) == sorted({model.tokenizer.eos_token_id, end})


def test_without_a_template_only_the_end_of_text_ends_an_answer(tmp_path: Path) -> None:
    model = load_language_model(write_model(tmp_path / "model", chat_template=None))
    assert stop_tokens(model) == [model.tokenizer.eos_token_id]


def test_an_answer_stops_at_a_stop_token_while_others_go_on(model: LanguageModel) -> None:
    answers = model.answer(PROMPTS, sampling=SHORT, chat=False)
    tokens = model.tokenizer(answers[0])["input_ids"]
    model.model.generation_config.eos_token_id = [tokens[3]]
    cut = model.answer(PROMPTS, sampling=SHORT, chat=False)
    assert len(cut[0]) < len(answers[0])
    assert answers[0].startswith(cut[0])


def test_what_cannot_be_asked_says_what_to_do(tmp_path: Path) -> None:
    plain = load_language_model(write_model(tmp_path / "plain", chat_template=None, max_position_embeddings=64))
    assert refusal(plain, [{"role": "user", "content": "Love?"}]) == (FailureClass.USER, "ChatTemplateMissing")
    assert refusal(plain, "Love? " * 40) == (FailureClass.DATA, "PromptTooLong")
    strict = "{{ raise_exception('roles must take turns') }}"
    turns = load_language_model(write_model(tmp_path / "strict", chat_template=strict))
    assert refusal(turns, "Love?") == (FailureClass.USER, "ChatTemplateFailed")


def test_a_folder_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    other = write_model(tmp_path / "other", hidden_size=32)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(other), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(FinetuneError) as caught:
        load_language_model(base, adapter=tmp_path / "adapter")
    assert caught.value.failure.reason == "ModelNotLoadable"
    assert str(tmp_path / "adapter") in caught.value.failure.message
