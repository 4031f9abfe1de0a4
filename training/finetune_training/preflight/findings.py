"""What is looked at before Ray starts.

In: the job, and its model's folder without the weights. Out: warnings, told; or the first User error. Minutes of a cluster
are what it saves: what is wrong here would be an error of torch, PEFT or TRL on the ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_training.contract.spec import MethodType, RunSpec
from finetune_training.events.progress import Warned
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.preflight.finding import Finding, Level
from finetune_training.preflight.fitness import check_fitness, facts_of


def findings(folder: Path, spec: RunSpec) -> list[Finding]:
    """How model, tokenizer and job fit each other. Raises a User error for a tokenizer or a config that cannot be read."""
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.model.trust_remote_code)
    found = check_fitness(facts_of(folder, spec, tokenizer))
    if spec.method.type is MethodType.FULL or any(each.error for each in found):
        return found
    from finetune_training.model.lora import outline
    from finetune_training.preflight.adapters import check_adapters

    return [*found, *check_adapters(outline(folder, spec), spec)]


def heed(found: list[Finding], tell: Callable[[Warned], None]) -> None:
    """Raise the first error among `found`, or tell the warnings."""
    for each in found:
        if each.error:
            raise each.error
    for each in found:
        if each.level is Level.WARNING:
            tell(Warned(f"{each.message} {each.remedy}".strip()))
