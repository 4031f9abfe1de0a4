"""How a launch has ended: who failed first.

In: what the driver has heard of its ranks, how Ray Train has ended, whether the driver was told to end, and how the memory of the
machines is now. Out: trained, or a `Failure`. One failure has many traces: a rank that is gone makes its peers' collectives fail,
a machine takes all its ranks along. Of several that could be, the one counts that explains the others:

1. The driver itself has ended them, because they did not move: what is said after that comes of it.
2. They have stopped as they were asked to, and the checkpoint is committed: whatever has become of them since.
3. What a rank says of itself, then what Ray says of ranks. Of these the first that is no mere consequence (`CONSEQUENCES`) of
   another; where all are, the first. Where nobody says anything, Ray itself is gone.
4. Of a loss (`LOSSES`): what was taken away, if the rank went with it or has lost a peer to it.
5. Of a loss that was not announced: the kernel, if it has killed for want of memory where a rank was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from finetune_training.contract.failure import AGAIN, Failure, FailureClass, Reason, classify, infrastructure_error
from finetune_training.driver.listen import Heard
from finetune_training.driver.preemption import DRIVER_TOLD, Taken, stopped
from finetune_training.events.progress import Trained
from finetune_training.worker.container import HostMemory
from finetune_training.worker.line import Place, RankFailed

LOSSES: Final = (Reason.WORKER_LOST, Reason.NODE_LOST, Reason.CLUSTER_LOST, Reason.COLLECTIVE)
"""Reasons of failures: ranks are gone, or their peers are."""
CONSEQUENCES: Final = (Reason.COLLECTIVE, Reason.UNKNOWN)
"""Reasons that something else explains better, if anything does: a rank that is gone makes its peers' collectives fail."""

MemoryOn = Callable[[Iterable[str]], Mapping[str, HostMemory]]
"""The memory of these nodes, of those that answer."""


def outcome(
    heard: Heard, ended: Sequence[BaseException], memory_on: MemoryOn, *, told_to_end: bool
) -> Trained | Failure:
    """The order of the evidence. `ended`: the errors that Ray Train has ended with."""
    if heard.hung:
        return heard.hung
    trained = heard.trained
    if trained and (trained.interrupted or told_to_end):
        # After the last step, too: to answer and to export takes longer than there is time.
        by_user = heard.asked and heard.stopped_by is None
        return stopped(trained.step, DRIVER_TOLD if told_to_end and not by_user else heard.stopped_by)
    if trained and not heard.failed and not ended:
        return trained
    failure = announced(first(heard.failed, ended), heard.taken)
    return killed(failure, heard.places, memory_on) or failure


def first(failed: Sequence[RankFailed], ended: Sequence[BaseException]) -> Failure:
    """Of several failures the one that explains the others."""
    failures = [report.failure for report in failed]
    failures += [_lost(classify(error, rank=rank)) for problem in ended for rank, error in _by_rank(problem)]
    if not failures:
        return infrastructure_error(Reason.CLUSTER_LOST, "Ray ended before the ranks did.", AGAIN).failure
    return next((failure for failure in failures if failure.reason not in CONSEQUENCES), failures[0])


def announced(failure: Failure, taken: Taken | None) -> Failure:
    """`failure`, or what it really is: ranks that went with what was taken away, before they had saved."""
    if taken is None or failure.reason not in LOSSES:
        return failure
    another = taken.ranks is not None and failure.rank is not None and failure.rank not in taken.ranks
    if another and failure.reason != Reason.COLLECTIVE:  # whose peers are gone is none of its own
        return failure
    cls, reason = taken.kind
    return replace(
        failure,
        cls=cls,
        reason=reason,
        message=f"{taken.what} It was gone before the ranks had stopped; the last checkpoint that was saved stands.",
        remedy=AGAIN,
        detail="\n".join(text for text in (failure.message, failure.detail) if text),
    )


def killed(failure: Failure, places: Mapping[int, Place], memory_on: MemoryOn) -> Failure | None:
    """What a loss really is if the kernel has killed a rank, which it does without a word. None if it has not."""
    if failure.reason not in LOSSES:
        return None
    anyone = failure.rank is None or failure.reason == Reason.COLLECTIVE
    lost = {rank: place for rank, place in sorted(places.items()) if anyone or rank == failure.rank}
    answers = memory_on(dict.fromkeys(place.node for place in lost.values()))
    for rank, place in lost.items():
        now = answers.get(place.node)
        if now and now.kills > place.kills:
            return _out_of_memory(failure, rank, place, now)
    return None


def _out_of_memory(failure: Failure, rank: int, place: Place, now: HostMemory) -> Failure:
    limit = f" of {now.limit / 2**30:.1f} GiB" if now.limit else ""
    return replace(
        failure,
        cls=FailureClass.OUT_OF_MEMORY,
        reason=Reason.OUT_OF_MEMORY,
        message=f"Rank {rank} on {place.address} was killed by the kernel: its host memory{limit} was used up.",
        remedy="Give the workers more memory (on a cluster spec.resources.worker.memory), or the run a smaller "
        "spec.training.microBatchSize.",
        rank=rank,
    )


def _by_rank(problem: BaseException) -> Iterator[tuple[int | None, BaseException]]:
    ranks: dict[int, BaseException] = getattr(problem, "worker_failures", None) or {}
    yield from ranks.items() if ranks else [(None, problem)]


def _lost(failure: Failure) -> Failure:
    """Ray tells all that it knows of a worker; the user needs to know that it is gone."""
    if failure.reason != Reason.WORKER_LOST or failure.rank is None:
        return failure
    message = f"Rank {failure.rank} is gone: its process died without a word."
    return replace(failure, message=message, detail=failure.message)
