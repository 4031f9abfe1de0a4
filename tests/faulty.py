"""Models that do in training what models and machines do at their worst: they run out of memory, hang, end the process.

In: a folder, the Python statements that go before each forward pass in training, and a Llama (else a tiny one). Out: a model
folder whose code is its own (`model.trustRemoteCode`): the faults are the user's, and nothing of the product is replaced.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path

from tests.tiny import write_model

# TRL puts a forward of its own in the place of a model's; that of the layers below it stays.
_CODE = """\
import os
import time

import torch
from transformers import LlamaForCausalLM


def before(self, arguments, named):
    input_ids = named.get("input_ids", arguments[0] if arguments else None)
    if self.training:
        {before}


class Faulty(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_pre_hook(before, with_kwargs=True)
"""


def write_faulty_model(folder: Path, before: str, *, llama: Path | None = None) -> Path:
    """`before` sees `self` (the layers) and `input_ids`. `llama`: the folder of a model to be copied."""
    if llama:
        shutil.copytree(llama, folder)
    else:
        write_model(folder, "llama")
    statements = textwrap.indent(textwrap.dedent(before).strip(), 8 * " ").strip()
    (folder / "faulty.py").write_text(_CODE.format(before=statements))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "faulty.Faulty"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def short_of_memory(*, tokens: int) -> str:
    """A GPU with room for so many tokens at a time."""
    return f"""
        if input_ids.numel() > {tokens}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    """
