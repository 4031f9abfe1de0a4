"""Ranks that do not move any more: looked at, and ended.

In: where they are. Out: the stacks of all in the attempt's folder, and the failure that it is. They are killed, so that Ray Train
ends.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from finetune_training.contract.failure import AGAIN, Failure, FailureClass
from finetune_training.driver.ray_cluster import on_nodes
from finetune_training.worker.line import Place
from finetune_training.worker.rank import stacks_path
from finetune_training.worker.stacks import Found, collect, culprit, end, told
from finetune_training.worker.task import Task

STACKS: Final = "stacks.txt"
_ANSWER_SECONDS: Final = 10.0

logger = logging.getLogger(__name__)


def end_hanging(task: Task, places: Mapping[int, Place], folder: Path, *, seconds: float, step: int) -> Failure:
    """For so many `seconds` nothing has moved after `step`."""
    asked = {
        node: {rank: (place.pid, stacks_path(task, rank)) for rank, place in places.items() if place.node == node}
        for node in {place.node for place in places.values()}
    }
    answers = on_nodes(collect, asked, seconds=_ANSWER_SECONDS).values()
    found = sorted((each for answer in answers for each in answer), key=lambda each: each.rank)
    pids = {node: [pid for pid, _ in ranks.values()] for node, ranks in asked.items()}
    on_nodes(end, pids, seconds=_ANSWER_SECONDS)
    _keep(found, folder / STACKS)
    who = culprit(found)
    where = f"{task.store.uri}/attempts/{task.turn.attempt}/{STACKS}"
    return Failure(
        FailureClass.HANG,
        "Hang",
        f"No step for {seconds:.0f} s after step {step}.{f' {who}' if who else ''} What every rank was doing is in {where}.",
        AGAIN,
    )


def _keep(found: list[Found], path: Path) -> None:
    try:
        path.write_text(told(found), encoding="utf-8")
    except OSError:  # a full disk: the sentence is left
        logger.warning("The stacks could not be kept", exc_info=True)
