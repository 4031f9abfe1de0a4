"""The model families that people train most, each as a small tokenizer with the family's tokens and its chat template.

In: TRL's templates and those in jinja/, which are short ones of our own of a family's form. Out: a tokenizer per family, of the
family's kind (byte-level, or SentencePiece's with its blanks), nothing downloaded. What is of the family: which tokens are
special, which one begins and ends a text, whether the tokenizer writes the begin token itself, what blanks a token takes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.templates import originals
from tests.tiny import CHATML

FOLDER = Path(__file__).parent
_TEXT = (
    "What is the sky like? It is blue, and the sea is green. Rain falls in Bergen; say what the weather is like there."
)
_VOCABULARY = 400


@dataclass(frozen=True)
class Family:
    """`template`: a file of jinja/, a name of TRL's, or empty. `pieces`: SentencePiece's kind; `blank`: which puts a blank
    before a text, and after each special token. `begins`: the tokenizer puts its begin token before a text.
    `greedy`: its tokens take the blanks after them."""

    template: str
    begin: str
    end: str
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    pieces: bool = False
    blank: bool = True
    begins: bool = False
    greedy: bool = False


_CHATML = ("<|im_start|>", "<|im_end|>")
_TOOL_CALLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_QWEN3 = (*_TOOL_CALLS, "<think>", "</think>")
_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|eom_id|>", "<|end_of_text|>")
_MISTRAL = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
_DEEPSEEK = (
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)
_SENTENCE = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")
_PHI3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_COHERE = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)
_GPT_OSS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|endoftext|>")
_ROLES = ("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>")
FAMILIES = {
    "alpaca": Family("alpaca", "<s>", "</s>", pieces=True, begins=True),
    "chatml_on_a_base_model": Family("chatml", "", "<|endoftext|>", _CHATML),
    "command_r": Family("cohere", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", _COHERE, begins=True),
    "deepseek_r1_distill": Family("deepseek_r1_distill", *_SENTENCE, _DEEPSEEK, ("<think>", "</think>"), begins=True),
    "deepseek_v3": Family("deepseekv3", *_SENTENCE, _DEEPSEEK, ("<think>", "</think>"), begins=True),
    "falcon3": Family("falcon3", "", "<|endoftext|>", ("<|system|>", "<|user|>", "<|assistant|>")),
    "gemma2": Family("gemma", "<bos>", "<eos>", _GEMMA, pieces=True, blank=False, begins=True),
    "gemma3": Family("gemma3", "<bos>", "<eos>", _GEMMA, pieces=True, blank=False, begins=True),
    "glm4": Family("glm4", "", "<|endoftext|>", _GLM),
    "glm4_moe": Family("glm4moe", "", "<|endoftext|>", _GLM, ("<think>", "</think>", "/nothink", "<tool_call>")),
    "gpt2": Family("", "<|endoftext|>", "<|endoftext|>"),
    "gpt_oss": Family("gptoss", "<|startoftext|>", "<|return|>", _GPT_OSS),
    "granite3": Family("granite3", "<|end_of_text|>", "<|end_of_text|>", _ROLES),
    "llama2": Family("llama2", "<s>", "</s>", pieces=True, begins=True),
    "llama3": Family("llama3", "<|begin_of_text|>", "<|eot_id|>", _LLAMA3, begins=True),
    "llama3_1": Family("llama3_1", "<|begin_of_text|>", "<|eot_id|>", _LLAMA3, begins=True),
    "llama3_2": Family("llama3_2", "<|begin_of_text|>", "<|eot_id|>", _LLAMA3, begins=True),
    "llama3_base": Family("", "<|begin_of_text|>", "<|end_of_text|>", _LLAMA3, begins=True),
    "mistral": Family("mistral", "<s>", "</s>", _MISTRAL, pieces=True, begins=True),
    "mistral_tekken": Family(
        "mistral_tekken", "<s>", "</s>", (*_MISTRAL, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), begins=True
    ),
    "nemotron3": Family("nemotron_3_nano", "<s>", "<|im_end|>", _CHATML, _QWEN3, begins=True),
    "olmo2": Family("olmo2", "<|endoftext|>", "<|endoftext|>", ()),
    "phi3": Family("phi3", "<s>", "<|endoftext|>", _PHI3, pieces=True, begins=True, greedy=True),
    "phi3_5": Family("phi3_5", "<s>", "<|endoftext|>", _PHI3, pieces=True, begins=True, greedy=True),
    "phi4": Family("phi4", "<|endoftext|>", "<|im_end|>", (*_CHATML, "<|im_sep|>")),
    "qwen2_5": Family("qwen2_5", "", "<|im_end|>", (*_CHATML, "<|endoftext|>"), _TOOL_CALLS),
    "qwen3": Family("qwen3", "", "<|im_end|>", (*_CHATML, "<|endoftext|>"), _QWEN3),
    "qwen3_instruct": Family("qwen3_instruct_2507", "", "<|im_end|>", (*_CHATML, "<|endoftext|>"), _QWEN3),
    "smollm2": Family("smollm2", "<|im_start|>", "<|im_end|>", ("<|endoftext|>",)),
    "smollm3": Family("smollm3", "", "<|im_end|>", (*_CHATML, "<|endoftext|>"), _QWEN3),
    "vicuna": Family("vicuna", "<s>", "</s>", pieces=True, begins=True),
    "zephyr": Family("zephyr", "<s>", "</s>", pieces=True, begins=True),
}


def template_text(family: Family) -> str | None:
    """The chat template; None: a base model that has none."""
    if not family.template:
        return None
    own = FOLDER / "jinja" / f"{family.template}.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    return CHATML if family.template == "chatml" else originals()[family.template]


def tokenizer_of(family: Family, folder: Path) -> Any:
    """The family's tokenizer, written to `folder` and read again."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = Tokenizer.from_str(_trained(family.pieces, family.blank))
    named = dict.fromkeys(token for token in (family.begin, family.end) if token)
    special = (*named, *(token for token in family.special if token not in named))
    trained.add_special_tokens([AddedToken(token, normalized=False, rstrip=family.greedy) for token in special])
    trained.add_tokens([AddedToken(token, normalized=False) for token in family.plain])
    if family.begins:
        begin = (family.begin, trained.token_to_id(family.begin))
        trained.post_processor = processors.TemplateProcessing(single=f"{family.begin} $A", special_tokens=[begin])
    trained.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    tokens = {"bos_token": family.begin or None, "eos_token": family.end, "pad_token": family.end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | tokens))
    if (template := template_text(family)) is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return PreTrainedTokenizerFast.from_pretrained(folder)  # as AutoTokenizer does, which imports torch


@cache
def _trained(pieces: bool, blank: bool) -> str:
    """A vocabulary of either kind, without any special token."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=pieces))
    if pieces:
        prefix, strip = ([normalizers.Prepend("▁")], [decoders.Strip(" ", 1, 0)]) if blank else ([], [])
        tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
        alphabet = ["▁", "\n", *map(chr, range(33, 127))]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXT.split(". "), trainer)
    return tokenizer.to_str()
