"""What the API server's refusal means to the owner of a job, as a table: the first row that fits explains it.

In: the error of a request that an attempt begins with. Out: its row; None: it says nothing of the job, and stays an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_operator.act.apiserver import ApiError


@dataclass(frozen=True)
class Refusal:
    """One row. It fits an error of one of `statuses` whose message has all `words`, and whose reason is not `but`. `message` has
    a place for what the API server said. `final`: the attempt never may begin."""

    statuses: tuple[int, ...]
    reason: str
    message: str
    words: tuple[str, ...] = ()
    but: str = ""
    final: bool = False


_OF_THE_JOB = ".valueFrom."
"""In the path of a field: the one part of a RayJob that the job's owner writes freely."""

REFUSALS: Final = (
    Refusal(
        (404,), "KubeRayMissing",
        "KubeRay is not installed: the API server knows no RayJob of ray.io/v1. Have KubeRay 1.6 or newer installed.",
        but="NotFound",
    ),
    Refusal(
        (400,), "InvalidSpec",
        "spec.env: Kubernetes does not know a field of valueFrom: {said}. Correct it in a new job.",
        words=("unknown field", _OF_THE_JOB), final=True,
    ),
    Refusal(
        (400,), "KubeRayTooOld", "KubeRay is too old: {said}. Have KubeRay 1.6 or newer installed.", words=("unknown field",)
    ),
    Refusal(
        (403,), "QuotaExceeded",
        "The namespace's quota is used up: {said}. Wait for other jobs to end, or have the quota raised.",
        words=("exceeded quota",),
    ),
    Refusal((403,), "NamespaceTerminating", "The namespace is being deleted.", words=("being terminated",)),
    Refusal((400, 403), "NotAllowed", "The API server does not allow what the attempt needs: {said}"),
    Refusal((422,), "InvalidSpec", "The API server refuses what the attempt needs: {said}", final=True),
)  # fmt: skip
"""In the order in which they are tried: what is said of some errors of a status comes before what is said of all."""


def refusal_of(error: ApiError) -> Refusal | None:
    """The first row that fits."""
    return next((each for each in REFUSALS if _fits(each, error)), None)


def _fits(row: Refusal, error: ApiError) -> bool:
    known = error.status in row.statuses and not (row.but and error.reason == row.but)
    return known and all(each in error.message for each in row.words)
