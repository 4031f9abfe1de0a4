"""Where the time of a job has gone.

In: the times of one attempt, and what its driver said of its own seconds. Out: seconds by kind and GPU-seconds, and
`status.usage` with them added. Only attempts that have ended are counted, so nothing is written for progress.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.status import UsageStatus
from finetune_training.contract.run import SecondsStatus

KINDS: Final = (
    "waiting", "starting", "preparing", "training", "evaluating", "exporting", "checkpoint", "lost",
)  # fmt: skip
"""Of seconds: each is one of these, or none where a driver does not say."""
_REPORTED: Final = {
    "preparing": "preparing", "starting": "starting", "training": "training", "evaluating": "evaluating",
    "exporting": "exporting", "checkpoint": "checkpointing", "lost": "lost",
}  # fmt: skip
"""By our names, those of `status.run.seconds`."""
_LONGEST: Final = 10.0**10
"""Seconds. No job runs for 300 years: anybody may write a number."""


@dataclass(frozen=True)
class Times:
    """Of one attempt, in seconds since 1970. `since`: when it began to wait, or the pause before it. `running`: when all its
    pods ran. `spoke`: when its driver last wrote."""

    since: float
    end: float
    running: float | None = None
    spoke: float | None = None


def spent(times: Times, reported: SecondsStatus | None, *, succeeded: bool) -> dict[str, float]:
    """Seconds by kind. What the driver did before the last pod ran is its own, not waiting; what was done since the last
    checkpoint, and since the driver's last word, is lost unless the attempt succeeded."""
    seconds = {kind: _said(getattr(reported, name, None)) for kind, name in _REPORTED.items()}
    end = max(times.end, times.since)
    running = _between(times.since, times.running, end)
    first = end  # without a word it was still starting
    if times.spoke is not None:
        first = _between(times.since, times.spoke - sum(seconds.values()), end) if reported else running
    ready = min(running, first)
    seconds["waiting"] = ready - times.since
    seconds["starting"] += first - ready
    if not succeeded and reported:
        undone = min(_said(reported.since_checkpoint), seconds["training"])
        seconds["training"] -= undone
        seconds["lost"] += undone + end - _between(times.since, times.spoke, end)
    return seconds


def added(usage: UsageStatus | None, seconds: Mapping[str, float], *, total: float, gpu_seconds: float) -> UsageStatus:
    """`status.usage` with an attempt more."""
    more = {f"{kind}_seconds": seconds[kind] for kind in KINDS} | {"total_seconds": total, "gpu_seconds": gpu_seconds}
    whole = {name: (getattr(usage, name) if usage else 0) + round(_bounded(value)) for name, value in more.items()}
    goodput = _goodput(whole["training_seconds"], whole["total_seconds"])
    return usage.model_copy(update=whole | {"goodput": goodput}) if usage else UsageStatus(**whole, goodput=goodput)


def found_again(usage: UsageStatus, seconds: float) -> UsageStatus:
    """`status.usage` when so many seconds of training were not lost; negative: when more were."""
    moved = max(-usage.training_seconds, min(usage.lost_seconds, round(_bounded(seconds))))
    trained = usage.training_seconds + moved
    changes = {"training_seconds": trained, "lost_seconds": usage.lost_seconds - moved}
    return usage.model_copy(update=changes | {"goodput": _goodput(trained, usage.total_seconds)})


def seconds_of(usage: UsageStatus | None, kind: str) -> int:
    """Of one of `KINDS`."""
    return int(getattr(usage, f"{kind}_seconds")) if usage else 0


def _goodput(trained: int, whole: int) -> float:
    return round(min(1.0, trained / whole), 3) if whole else 0.0


def _said(seconds: float | None) -> float:
    return _between(0.0, seconds or 0.0, _LONGEST)


def _bounded(seconds: float) -> float:
    return 0.0 if math.isnan(seconds) else _between(-_LONGEST, seconds, _LONGEST)


def _between(low: float, moment: float | None, high: float) -> float:
    """Clocks differ, and an operator may look late."""
    return high if moment is None else min(max(low, moment), high)
