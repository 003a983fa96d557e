"""The mixture of sources: which source each place of each step draws from, as a pure function.

Each sample of a source with weight 2 is seen twice as often as one of weight 1: source i gets the share
weight_i * samples_i of all draws. The shares hold at every step, not only on average: of the first n draws of a lane,
source i gets floor(n * share_i + phase). One source is split off from the rest at a time, so a count is off by at most
one per split, and the position within a source follows from the counts, without a table of past draws. The phases of
the lanes are spread evenly over [0, 1), shuffled for each split, so that every global batch is mixed too.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np


@dataclass(frozen=True)
class Draw:
    """The source of a place of a step, and the position in it."""

    source: int
    lane: int
    position: int
    """Position in the lane's sequence of samples of this source."""


class Mixture:
    """The map (step, place in the global batch) -> draw, for one kind of data."""

    def __init__(self, sizes: list[int], weights: list[Fraction], samples_per_step: int, num_lanes: int, seed: int):
        """sizes: the number of samples of each source. samples_per_step: samples of this kind in the global batch."""
        assert samples_per_step % num_lanes == 0, f"{num_lanes} lanes must divide {samples_per_step} samples per step"
        self.num_lanes = num_lanes
        self.per_lane = samples_per_step // num_lanes
        shares = [weight * size for weight, size in zip(weights, sizes, strict=True)]
        scale = lcm(*(share.denominator for share in shares))
        self._parts = [int(share * scale) for share in shares]
        self._rests = [sum(self._parts[source:]) for source in range(len(shares))]
        self.shares = [part / self._rests[0] for part in self._parts]
        """Fraction of all draws that each source gets."""
        generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
        self._phases = [
            [int(lane) * rest // num_lanes for lane in generator.permutation(num_lanes)] for rest in self._rests
        ]

    def draw(self, step: int, place: int) -> Draw:
        """Return the draw at a place of a step. place: 0 .. samples_per_step - 1."""
        lane, offset = divmod(place, self.per_lane)
        number = step * self.per_lane + offset
        for source in range(len(self._parts)):
            before = self._count(source, lane, number)
            if self._count(source, lane, number + 1) > before:
                return Draw(source, lane, before)
            number -= before
        raise AssertionError("the last source takes all that is left")

    def seen(self, step: int) -> list[int]:
        """Return the number of samples drawn from each source before `step`."""
        seen = [0] * len(self._parts)
        for lane in range(self.num_lanes):
            number = step * self.per_lane
            for source in range(len(self._parts)):
                count = self._count(source, lane, number)
                seen[source] += count
                number -= count
        return seen

    def _count(self, source: int, lane: int, number: int) -> int:
        """Return how many of the first `number` draws that reach the split of a source go to it."""
        return (number * self._parts[source] + self._phases[source][lane]) // self._rests[source]
