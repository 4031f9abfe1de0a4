"""What a driver that left no word has left instead: the end of a log.

In: a failure and the world. Out: which log to read, and what to keep of it. Pure: the reading is a question that a decision
asks, and the answer comes back in the world (docs/decisions.md).
"""

from __future__ import annotations

import re

from finetune_operator.decide.effects import LogOf
from finetune_operator.decide.outcome import AttemptFailure
from finetune_operator.names import HEAD, SUBMITTER
from finetune_operator.observe.world import World

LOG_MAX = 1024
"""Bytes, and so characters, of `status.failure.log`."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_IN_KUBERAY = re.compile(r"last available logs[^\n]*:\n(.*)", re.DOTALL)


def question(world: World, failure: AttemptFailure) -> LogOf | None:
    """The log of the container that explains the failure; nothing if there is a word, no such pod, or the log was read."""
    if world.log is not None or not failure.log or _said(world):
        return None
    if failure.log == "pod":
        return LogOf(failure.pod or "", failure.container)
    head = next((each for each in world.pods_of(world.attempt) if each.head), None)
    return LogOf(head.name, {"head": HEAD, "submitter": SUBMITTER}[failure.log]) if head else None


def log_of(world: World, failure: AttemptFailure) -> str:
    """What was read, or else what KubeRay had read; empty if the driver has said why."""
    if not failure.log or _said(world):
        return ""
    found = _IN_KUBERAY.search(world.rayjob.message) if world.rayjob else None
    return end_of(world.log or "") or end_of(found[1] if found else "")


def _said(world: World) -> bool:
    """The driver has left word."""
    return world.run is not None and world.run.failure is not None


def end_of(text: str) -> str:
    """The last lines, as people read them in a terminal, in at most LOG_MAX bytes."""
    lines = [line.rpartition("\r")[2].rstrip() for line in _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")]
    clean = "\n".join("".join(each for each in line if each == "\t" or each.isprintable()) for line in lines).strip()
    kept = clean.encode()[-LOG_MAX:].decode(errors="ignore")
    whole = kept.partition("\n")[2] if len(kept) < len(clean) else kept  # the first line is cut
    return whole or kept
