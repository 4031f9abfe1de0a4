"""A run that did not fit into memory and goes on with less: what has changed, to be announced once.

In: `status.run.memory`, which the driver writes, and `status.memory`, which the operator has announced. Out: the new
`status.memory`, and a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.observe.world import World

Json = Mapping[str, Any]

_WORDS = {
    "microBatchSize": "micro batch",
    "gradientCheckpointing": "gradient checkpointing",
    "offload": "offload",
    "stage": "ZeRO stage",
}


def relieved(world: World) -> tuple[Json, str] | None:
    """None: nothing that has not been said."""
    run: Json = world.status.run.get("memory") or {}
    before: Json = world.status.body.get("memory") or _as_asked_for(world)
    if int(run.get("rung", 0)) <= before["rung"]:
        return None
    now = {name: value for name, value in run.items() if name != "peakBytes"}
    changed = [
        f"{words} {_word(before.get(name))} → {_word(now.get(name))}"
        for name, words in _WORDS.items()
        if before.get(name) != now.get(name)
    ]
    what = ", ".join(changed) or f"rung {before['rung']} → {now['rung']}"
    return now, f"The run does not fit into memory and goes on with less: {what}. The global batch is the same."


def _as_asked_for(world: World) -> Json:
    training, deepspeed = world.spec.get("training", {}), world.spec.get("deepspeed", {})
    return {
        "rung": 0,
        "microBatchSize": training.get("microBatchSize"),
        "gradientCheckpointing": training.get("gradientCheckpointing"),
        "offload": deepspeed.get("offload"),
        "stage": deepspeed.get("stage"),
    }


def _word(value: object) -> str:
    return "on" if value is True else "off" if value is False else str(value)
