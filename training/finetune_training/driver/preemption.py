"""What is taken away from a run while it trains: machines of its ranks, or the driver itself.

In: where the ranks are, which of Ray's nodes are told to end, a signal. Out: what is taken away, in words, and how an
attempt has ended that was stopped for it. (One that was not stopped in time is outcome.py's.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from finetune_training.contract.failure import AGAIN, Failure, FailureClass, Reason
from finetune_training.worker.line import Place


@dataclass(frozen=True)
class Taken:
    """What is taken away, as a sentence. `ranks`: those that go with it; None: all, with the driver."""

    what: str
    ranks: frozenset[int] | None = None

    @property
    def kind(self) -> tuple[FailureClass, str]:
        """Class and reason of the failure that it is."""
        if self.ranks is None:
            return FailureClass.PREEMPTED, "Preempted"
        return FailureClass.PREEMPTED, Reason.MACHINE_TAKEN


DRIVER_TOLD = Taken("The driver was told to end (SIGTERM).")


def taken_away(draining: Collection[str], places: Mapping[int, Place]) -> Taken | None:
    """What of a run goes with the nodes that are `draining`."""
    ranks = sorted(rank for rank, place in places.items() if place.node in draining)
    if not ranks:
        return None
    addresses = list(dict.fromkeys(places[rank].address for rank in ranks))
    one = len(addresses) == 1
    return Taken(
        f"{'Machine' if one else 'Machines'} {_listed(addresses)} with {'rank' if len(ranks) == 1 else 'ranks'} "
        f"{_listed(ranks)} {'is' if one else 'are'} being taken away.",
        frozenset(ranks),
    )


def stopped(step: int, by: Taken | None) -> Failure:
    """The ranks have stopped as they were asked to, and the step's checkpoint is committed. `by` None: the user asked."""
    message = f"Stopped after step {step}; its checkpoint is saved."
    if by is None:
        return Failure(FailureClass.INTERRUPTED, "Interrupted", message, AGAIN)
    return Failure(*by.kind, f"{by.what} {message}", AGAIN)


def with_the_driver(failure: Failure) -> Failure:
    """What would have been mended, had the driver not been told to end meanwhile."""
    return replace(
        failure,
        cls=FailureClass.PREEMPTED,
        reason="Preempted",
        message=f"{DRIVER_TOLD.what} {failure.message}",
        remedy=AGAIN,
    )


def _listed(items: Iterable[object]) -> str:
    *first, last = (str(item) for item in items)
    return f"{', '.join(first)} and {last}" if first else last
