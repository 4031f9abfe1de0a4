"""Whether another attempt is made after one that failed, and when.

In: the failure, what the job may have, and its books with the attempt closed. Out: a `Verdict`. Pure, so the pause is the same
each time it is asked for: its jitter comes from the job and the attempt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.status import PastAttempt
from finetune_operator.decide.books import KEPT, MESSAGE_MAX
from finetune_operator.decide.outcome import AttemptFailure
from finetune_operator.observe.world import World
from finetune_training.contract.failure import FailureClass

FIRST_PAUSE, LONGEST_PAUSE, JITTER = 10.0, 360.0, 0.25
"""Seconds between attempts, doubled with each failure: those of batch/v1 Job. Up to a quarter more, so that jobs that were
lost together do not come back together."""
RETRIES_FOR_MEMORY: Final = 6
"""The rungs of the driver's ladder: more than these there are not."""

NEVER, FREE, MEMORY, COUNTED = "none", "free", "memory", "counted"
BUDGETS: Final[Mapping[str, str]] = {
    FailureClass.USER: NEVER,
    FailureClass.DATA: NEVER,
    FailureClass.PREEMPTED: FREE,
    FailureClass.OUT_OF_MEMORY: MEMORY,
    FailureClass.INFRASTRUCTURE: COUNTED,
    FailureClass.HANG: COUNTED,
    FailureClass.INTERRUPTED: COUNTED,
    FailureClass.FENCED: COUNTED,
    FailureClass.UNKNOWN: COUNTED,
}
"""By class, what another attempt is paid from. A class that is not here counts, too."""
_MAY_REPEAT = (FailureClass.INFRASTRUCTURE, FailureClass.HANG, FailureClass.UNKNOWN)
_VARIABLE: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # a uuid
    r"|0x[0-9a-f]+|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b"  # an address, an id of Ray's
    r"|\d+(?:\.\d+)*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Verdict:
    """`failed` and `out_of_memory` are the counters from now on. `pause`: seconds until the next attempt; None: there is none,
    and `why` says so, if the failure itself does not."""

    failed: int
    out_of_memory: int
    pause: float | None
    why: str = ""


def judge(world: World, failure: AttemptFailure, attempts: Sequence[PastAttempt]) -> Verdict:
    """`attempts` are the past ones, that of the failure last."""
    paid_from = BUDGETS.get(failure.cls, COUNTED)
    failed = (world.status.failed or 0) + (paid_from in (NEVER, COUNTED))
    out_of_memory = (world.status.out_of_memory or 0) + (paid_from == MEMORY)
    first = _pause(world, 1)
    if failure.last or paid_from == NEVER:
        given_up = " The driver has tried all it can." if paid_from == MEMORY and not failure.pod else ""
        return Verdict(failed, out_of_memory, None, given_up)
    if paid_from == FREE:
        return Verdict(failed, out_of_memory, first)
    if paid_from == MEMORY:
        if out_of_memory > RETRIES_FOR_MEMORY:
            why = f" {_times(out_of_memory)} ended so, each with less memory asked for than the one before."
            return Verdict(failed, out_of_memory, None, why)
        return Verdict(failed, out_of_memory, first)
    if again := _the_same_again(world, failure, attempts):
        return Verdict(failed, out_of_memory, None, again)
    if failed > world.spec.backoff_limit:
        why = f" {_times(failed)} failed, as many as spec.backoffLimit allows."
        return Verdict(failed, out_of_memory, None, why)
    return Verdict(failed, out_of_memory, _pause(world, _in_a_row(attempts)))


def _pause(world: World, failures: int) -> float:
    """Whole seconds, as the status has them."""
    digest = hashlib.sha256(f"{world.job.uid}/{world.attempt}".encode()).digest()
    jitter = int.from_bytes(digest[:4], "big") / 2**32 * JITTER
    return float(round(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, KEPT)) * (1 + jitter)))


def _in_a_row(attempts: Sequence[PastAttempt]) -> int:
    """Attempts that failed and counted, since the last one that made progress, that one included."""
    number, later = 0, None
    for each in reversed(attempts):
        if later and _checkpoint(later) > _checkpoint(each):
            break
        number += bool(each.class_) and BUDGETS.get(each.class_, COUNTED) == COUNTED
        later = each
    return max(1, number)


def _the_same_again(world: World, failure: AttemptFailure, attempts: Sequence[PastAttempt]) -> str:
    """Says so if the attempt before failed in the same way, at the same step, and nothing was saved in between."""
    if not failure.repeats or failure.cls not in _MAY_REPEAT or len(attempts) < 2:
        return ""
    before, now = attempts[-2:]
    one_after_the_other = before.attempt + 1 == now.attempt
    alike = all(getattr(before, name) == getattr(now, name) for name in ("class_", "reason", "rank", "step"))
    if not (one_after_the_other and alike) or _checkpoint(now) > _checkpoint(before):
        return ""
    if not _same_words(world.job.name, before.message, now.message):
        return ""
    where = f"at step {now.step}" if now.step is not None else "before its first step"
    return (
        f" It failed the same way twice, {where}, in attempts {before.attempt} and {now.attempt}: another attempt "
        "cannot help."
    )


def _same_words(job: str, one: str, other: str) -> bool:
    """But for numbers, addresses, ids and the names of pods. Of long messages the books have the beginning."""
    words = [_constant(job, each) for each in (one, other)]
    if max(len(one), len(other)) < MESSAGE_MAX:
        return words[0] == words[1]
    shortest = min(map(len, words))
    return words[0][:shortest] == words[1][:shortest]


def _constant(job: str, message: str) -> str:
    return _VARIABLE.sub("#", re.sub(rf"\b{re.escape(job)}-\d+(?:-[a-z0-9]+)*", "pod", message))


def _checkpoint(attempt: PastAttempt) -> int:
    return -1 if attempt.checkpoint_step is None else attempt.checkpoint_step


def _times(number: int) -> str:
    return f"{number} attempt{'s' if number > 1 else ''}"
