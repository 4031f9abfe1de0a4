"""What the ranks of one run agree on: small control messages, apart from the training's own collectives.

In: a process group that is up. Out: a `World`: who am I, gather small values, decide together. It has a gloo group of
its own, so that it never waits behind NCCL and works for values on the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

from finetune_training.contract.failure import Failure, FinetuneError, classify

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)


class World(Protocol):
    """The ranks of one run."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def local_rank(self) -> int: ...

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank. Collective."""
        ...


@dataclass(frozen=True)
class TorchWorld:
    """A World over torch.distributed."""

    rank: int
    size: int
    local_rank: int
    group: Any

    @classmethod
    def create(cls) -> TorchWorld:
        """Collective: after `init_process_group`, on every rank."""
        import torch.distributed as dist  # here, because the driver knows this room too and needs no torch

        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")), group)

    def gather(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values


def together(world: World, find: Callable[[], T]) -> list[T]:
    """Every rank's finding. Collective. A failure of one is raised on all: the others would wait for it."""
    found: T | Failure
    try:
        found = find()
    except Exception as error:
        found = classify(error, rank=world.rank)
    everyones = world.gather(found)
    failure = next((each for each in everyones if isinstance(each, Failure)), None)
    if failure:
        raise FinetuneError(failure)
    return [each for each in everyones if not isinstance(each, Failure)]


def first_of(world: World, find: Callable[[], T]) -> T:
    """What rank 0 has found. Collective."""
    found = together(world, lambda: find() if world.rank == 0 else None)[0]
    return cast(T, found)


def first_problem(world: World, find: Callable[[], str]) -> str:
    """The first rank's words of what is wrong, empty if no rank has found anything. Collective."""
    return next((problem for problem in together(world, find) if problem), "")
