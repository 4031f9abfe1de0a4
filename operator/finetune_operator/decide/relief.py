"""A run that did not fit into memory and goes on with less: what has changed, to be announced once.

In: `status.run.memory`, which the driver writes, and `status.memory`, which the operator has announced. Out: the new
`status.memory`, and a sentence.
"""

from __future__ import annotations

from finetune_operator.observe.world import World
from finetune_training.contract.run import MemoryStatus

_WORDS = {
    "micro_batch_size": "micro batch",
    "gradient_checkpointing": "gradient checkpointing",
    "offload": "offload",
    "stage": "ZeRO stage",
}


def relieved(world: World) -> tuple[MemoryStatus, str] | None:
    """None: nothing that has not been said."""
    run = world.run.memory if world.run else None
    before = world.status.memory or _as_asked_for(world)
    if run is None or run.rung <= before.rung:
        return None
    now = MemoryStatus.model_validate(run.model_dump(exclude={"peak_bytes"}))
    changed = [
        f"{words} {_word(getattr(before, name))} → {_word(getattr(now, name))}"
        for name, words in _WORDS.items()
        if getattr(before, name) != getattr(now, name)
    ]
    what = ", ".join(changed) or f"rung {before.rung} → {now.rung}"
    return now, f"The run does not fit into memory and goes on with less: {what}. The global batch is the same."


def _as_asked_for(world: World) -> MemoryStatus:
    training, deepspeed = world.spec.training, world.spec.deepspeed
    return MemoryStatus(
        rung=0,
        micro_batch_size=training.micro_batch_size,
        gradient_checkpointing=training.gradient_checkpointing,
        offload=deepspeed.offload,
        stage=deepspeed.stage,
    )


def _word(value: object) -> str:
    return "on" if value is True else "off" if value is False else str(value)
