"""Whether a run that trains still moves.

In: what the ranks report, and the time. Out: for how long nothing has moved when that is too long. Only steps are watched:
starting, loading, the first steps, evaluation, saving and export take as long as they take, and collectives in them have
time limits of their own (torch's, 10 to 30 minutes). Pure.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from finetune_training.contract.environment import HANG_SECONDS
from finetune_training.contract.failure import user_error
from finetune_training.events.progress import Away, Report, Stage, StageStarted, Step

_FLOOR, _FACTOR = 300.0, 10.0
_UNCOUNTED = 2
"""The first steps of a launch compile and allocate; what they take says nothing about the others."""
_RECENT = 50


def floor() -> float:
    """Seconds without a step that are never a hang: FINETUNE_HANG_SECONDS, or 300. 0: nothing is."""
    text = os.environ.get(HANG_SECONDS, "")
    try:
        return max(0.0, float(text)) if text else _FLOOR
    except ValueError:
        raise user_error(
            "InvalidHangSeconds", f"{HANG_SECONDS} is {text!r}, which is no number.", "Write seconds."
        ) from None


@dataclass
class Watch:
    """Over the ranks of one launch. Times are seconds of any clock that does not go back."""

    floor: float = field(default_factory=floor)
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _steps: int = 0
    _since: float | None = None
    """When the step under way began; None: nothing is waited for."""

    def hear(self, report: Report, now: float) -> None:
        """Take note of what the ranks report."""
        match report:
            case Step():
                self._steps += 1
                if self._steps > _UNCOUNTED:
                    self._seconds.append(report.seconds)
                self._since = now if self._seconds else None
            case Away():
                self._since = now if report.over and self._seconds else None
            case StageStarted():
                self._since = now if report.stage is Stage.TRAINING and self._seconds else None

    @property
    def limit(self) -> float:
        """Seconds that a step may take."""
        return max(self.floor, _FACTOR * median(self._seconds)) if self._seconds else self.floor

    def left(self, now: float) -> float | None:
        """Seconds until it is a hang; None: it cannot become one."""
        return None if self._since is None or not self.floor else max(0.0, self._since + self.limit - now)
