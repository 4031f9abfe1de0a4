"""What is looked at before Ray starts.

In: the job, and its model's folder without the weights. Out: warnings, told; or the first User error. Minutes of a cluster
are what it saves: what is wrong here would be an error of torch, PEFT or TRL on the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune_training.contract.failure import FinetuneError
from finetune_training.contract.spec import ALL_LINEAR, MethodType, RunSpec
from finetune_training.events.progress import Warned
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.preflight.finding import Finding, Level, good
from finetune_training.preflight.fitness import check_fitness, facts_of


def findings(folder: Path, spec: RunSpec, *, tokenizer: Any = None, outlined: bool = True) -> list[Finding]:
    """How model, tokenizer and job fit each other. Raises a User error for a tokenizer or a config that cannot be read. Without
    `outlined` the model is not outlined, and torch not imported: enough where no module is named (see `names_modules`)."""
    tokenizer = tokenizer or load_tokenizer(folder, trust_remote_code=spec.model.trust_remote_code)
    found = check_fitness(facts_of(folder, spec, tokenizer))
    if spec.method.type is MethodType.FULL or any(each.error for each in found):
        return found
    if not outlined:
        return [*found, good("LoRA", "adapters on all linear layers.")]
    return [*found, *_adapters(folder, spec)]


def _adapters(folder: Path, spec: RunSpec) -> list[Finding]:
    """What LoRA adapts of the model's outline. An outline is less than the model: what only it cannot do refuses no run."""
    from finetune_training.model.lora import outline
    from finetune_training.preflight.adapters import check_adapters, unchecked

    try:
        return check_adapters(outline(folder, spec), spec)
    except FinetuneError:
        raise
    except Exception as error:  # the code of any model, and of PEFT's many kinds of layers
        return [unchecked(error)]


def names_modules(spec: RunSpec) -> bool:
    """Whether the spec names modules that a model may lack."""
    named = spec.method.lora.target_modules
    return spec.method.type is MethodType.LORA and not (isinstance(named, str) and named.lower() == ALL_LINEAR)


def heed(found: Sequence[Finding], tell: Callable[[Warned], None]) -> None:
    """Raise the first error among `found`, or tell the warnings."""
    for each in found:
        if each.error:
            raise each.error
    for each in found:
        if each.level is Level.WARNING:
            tell(Warned(f"{each.message} {each.remedy}".strip()))
