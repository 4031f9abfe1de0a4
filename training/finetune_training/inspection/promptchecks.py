"""The prompts of the job → a finding. Pure, given a tokenizer.

In: `spec.evaluation.prompts`, which are asked when training is done, and the model's config. Out: a `Finding` about the first
that could not be asked: nobody should learn that after a day of training.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

from finetune_training.chat.forms import chosen
from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import RunSpec
from finetune_training.predict.limits import limits_of
from finetune_training.predict.prompts import encode
from finetune_training.preflight.finding import Finding, good, wrong

_FIELD = "spec.evaluation.prompts"


def check_prompts(spec: RunSpec, folder: Path, tokenizer: Any, *, chat: bool) -> list[Finding]:
    """`folder`: of the model's config. `chat`: the rows are conversations, so a prompt is what a user says."""
    limits = limits_of(folder)
    asked = copy(tokenizer)  # the artifact's: with the run's own template
    asked.chat_template = chosen(asked.chat_template, spec.dataset.chat_template, spec.dataset.chat_template_args)
    for place, prompt in enumerate(spec.evaluation.prompts):
        try:
            limits.check(encode(asked, prompt, chat=chat), asked, new=1)
        except FinetuneError as error:
            return [wrong("prompts", error.at(f"{_FIELD}[{place}]"))]
    return [good("prompts", f"{len(spec.evaluation.prompts)}, all of which can be asked.")] * bool(
        spec.evaluation.prompts
    )
