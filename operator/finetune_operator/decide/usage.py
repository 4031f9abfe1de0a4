"""Where the time of a job has gone.

In: the times of one attempt, and what its driver said of its own seconds. Out: seconds by kind and GPU-seconds, and
`status.usage` with them added. Only attempts that have ended are counted, so nothing is written for progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Json = Mapping[str, Any]

KINDS: Final = (
    "waiting", "starting", "preparing", "training", "evaluating", "exporting", "checkpoint", "lost",
)  # fmt: skip
"""Of seconds: each is one of these, or none where a driver does not say."""
_REPORTED: Final = {
    "preparing": "preparing", "starting": "starting", "training": "training", "evaluating": "evaluating",
    "exporting": "exporting", "checkpoint": "checkpointing", "lost": "lost",
}  # fmt: skip
"""By our names, those of `status.run.seconds`."""


@dataclass(frozen=True)
class Times:
    """Of one attempt, in seconds since 1970. `since`: when it began to wait, or the pause before it. `running`: when all its
    pods ran. `spoke`: when its driver last wrote."""

    since: float
    end: float
    running: float | None = None
    spoke: float | None = None


def spent(times: Times, reported: Json | None, *, succeeded: bool) -> dict[str, float]:
    """Seconds by kind. What the driver did before the last pod ran is its own, not waiting; what was done since the last
    checkpoint, and since the driver's last word, is lost unless the attempt succeeded."""
    said = reported or {}
    seconds = {kind: float(said.get(name) or 0) for kind, name in _REPORTED.items()}
    end = max(times.end, times.since)
    running = _between(times.since, times.running, end)
    first = end  # without a word it was still starting
    if times.spoke is not None:
        first = _between(times.since, times.spoke - sum(seconds.values()), end) if reported else running
    ready = min(running, first)
    seconds["waiting"] = ready - times.since
    seconds["starting"] += first - ready
    if not succeeded and reported:
        undone = min(float(said.get("sinceCheckpoint") or 0), seconds["training"])
        seconds["training"] -= undone
        seconds["lost"] += undone + end - _between(times.since, times.spoke, end)
    return seconds


def added(usage: Json | None, seconds: Mapping[str, float], *, total: float, gpu_seconds: float) -> dict[str, Any]:
    """`status.usage` with an attempt more."""
    before = usage or {}
    fields = {f"{kind}Seconds": seconds[kind] for kind in KINDS} | {"totalSeconds": total, "gpuSeconds": gpu_seconds}
    return _with_goodput({name: int(before.get(name, 0)) + round(value) for name, value in fields.items()})


def found_again(usage: Json, seconds: float) -> dict[str, Any]:
    """`status.usage` when so many seconds of training were not lost; negative: when more were."""
    moved = max(-int(usage["trainingSeconds"]), min(int(usage["lostSeconds"]), round(seconds)))
    return _with_goodput(
        {
            **{name: value for name, value in usage.items() if name != "goodput"},
            "trainingSeconds": usage["trainingSeconds"] + moved,
            "lostSeconds": usage["lostSeconds"] - moved,
        }
    )


def _with_goodput(seconds: dict[str, int]) -> dict[str, Any]:
    whole = seconds["totalSeconds"]
    return seconds | {"goodput": round(min(1.0, seconds["trainingSeconds"] / whole), 3) if whole else 0.0}


def _between(low: float, moment: float | None, high: float) -> float:
    """Clocks differ, and an operator may look late."""
    return high if moment is None else min(max(low, moment), high)
