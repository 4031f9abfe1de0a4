"""Which sample is used when: a pure function of (seed, samples, position).

In: how many packed samples there are, the seed, the global batch size. Out: the sample indices of any optimizer step,
for any rank, without state: a resumed run asks for the same step and gets the same samples, whatever the number of
ranks (design, promise 4).

Position p is the p-th sample since the run began. Epoch e covers the positions [e·n, (e+1)·n) and is a permutation of
all samples by (seed, e). Step s uses the positions [s·B, (s+1)·B), across an epoch's end if need be; rank r takes the
micro batches r, r + R, r + 2R, … of them. The last step may reach past the end: those positions hold no sample, so that
no row is used twice and none left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

EMPTY = -1


@dataclass(frozen=True)
class Plan:
    """The whole order of a run. `positions`: how many samples the run uses, over all epochs."""

    samples: int
    positions: int
    global_batch_size: int
    seed: int

    @classmethod
    def of(cls, *, samples: int, global_batch_size: int, seed: int, epochs: float, max_steps: int) -> Plan:
        """`max_steps` of 0 means: as many as `epochs` takes."""
        positions = max_steps * global_batch_size if max_steps else max(1, math.ceil(epochs * samples))
        return cls(samples, positions, global_batch_size, seed)

    @property
    def steps(self) -> int:
        return math.ceil(self.positions / self.global_batch_size)

    def epoch_at(self, step: int) -> float:
        """Epochs completed after `step` steps."""
        return min(step * self.global_batch_size, self.positions) / self.samples

    def step(self, step: int) -> list[int]:
        """Sample indices of optimizer step `step` (from 0), EMPTY past the end of the run."""
        first = step * self.global_batch_size
        return [self._sample_at(position) for position in range(first, first + self.global_batch_size)]

    def micro_batches(
        self, *, first_step: int, rank: int, world_size: int, micro_batch_size: int
    ) -> Iterator[list[int]]:
        """The micro batches of one rank from `first_step` to the end of the run. Each step has
        global_batch_size / (world_size · micro_batch_size) of them."""
        for step in range(first_step, self.steps):
            indices = self.step(step)
            for start in range(rank * micro_batch_size, len(indices), world_size * micro_batch_size):
                yield indices[start : start + micro_batch_size]

    def _sample_at(self, position: int) -> int:
        if position >= self.positions:
            return EMPTY
        epoch, place = divmod(position, self.samples)
        return int(_permutation(self.samples, self.seed, epoch)[place])


@lru_cache(maxsize=2)
def _permutation(samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(samples)
