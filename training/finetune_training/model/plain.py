"""A folder → the model in it, as anybody's transformers and PEFT load it.

In: a model's folder, or a base model's and an adapter's. Out: the model in its own precision, on the GPU when there is one.
What is answered and what is compared comes from here, so neither knows more than the folder does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from finetune_training.contract.failure import user_error
from finetune_training.model.headers import damaged, incomplete
from finetune_training.model.refusals import UNLOADABLE, weights_damaged


def load_plain(folder: Path, *, adapter: Path | None = None, trust_remote_code: bool = False) -> Any:
    """Ready to be asked. Raises a User error for what is no model."""
    disable_progress_bar()  # it would stand between the question and the answer
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=trust_remote_code)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
    except UNLOADABLE as error:
        for place in (folder, *([adapter] if adapter else [])):
            if found := damaged(place) or incomplete(place):
                raise weights_damaged(str(place), *found) from error
        named = f"{folder} with the adapter {adapter}" if adapter else str(folder)
        raise user_error(
            "ModelNotLoadable",
            f"{named} is no causal language model that can be loaded.",
            "Check that the folder is whole, and that the adapter was trained on this base model.",
            detail=str(error)[:600],
        ) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
