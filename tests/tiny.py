"""Tiny random models with a real tokenizer, written to a folder as transformers would: what the tests fine-tune.

In: a folder and an architecture. Out: config.json, model.safetensors (about 0.1 M parameters), a byte-level BPE tokenizer
of 512 tokens and, unless told otherwise, the ChatML template. Nothing is downloaded, and the same call writes the same
bytes. `write_tokenizer` alone needs neither torch nor transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOS, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 512

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same text, with the assistant's part marked as transformers' `return_assistant_tokens_mask` wants it.
CHATML_MARKED = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Enough text for merges that make words; Shakespeare, sonnets 18 and 116.
_CORPUS = """Shall I compare thee to a summer's day? Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May, And summer's lease hath all too short a date:
Sometime too hot the eye of heaven shines, And often is his gold complexion dimm'd;
And every fair from fair sometime declines, By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade Nor lose possession of that fair thou owest;
Nor shall Death brag thou wander'st in his shade, When in eternal lines to time thou growest:
So long as men can breathe or eyes can see, So long lives this and this gives life to thee.
Let me not to the marriage of true minds Admit impediments. Love is not love
Which alters when it alteration finds, Or bends with the remover to remove:
O no! it is an ever-fixed mark That looks on tempests and is never shaken;
It is the star to every wandering bark, Whose worth's unknown, although his height be taken.
Love's not Time's fool, though rosy lips and cheeks Within his bending sickle's compass come:
Love alters not with his brief hours and weeks, But bears it out even to the edge of doom.
If this be error and upon me proved, I never writ, nor no man ever loved."""


def write_tokenizer(folder: Path, *, chat_template: str | None = CHATML) -> Path:
    """A byte-level BPE tokenizer: any text comes back as it was. `<|endoftext|>` ends a document."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS.splitlines(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder


def write_model(
    folder: Path, architecture: str = "llama", *, chat_template: str | None = CHATML, seed: int = 0, **config: Any
) -> Path:
    """A random causal LM ("llama", "gptj" or "gpt2") and its tokenizer in `folder`. `config` goes over the small
    defaults, by the names of that architecture's config class."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    write_tokenizer(folder, chat_template=chat_template)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(architecture, **{**_SIZES[architecture], **_TOKENS, **config})
        )
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
_SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128, "n_positions": 2048, "rotary_dim": 8},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128, "n_positions": 2048},
}
