"""Which source of a kind stands at which place of which step: a pure function, exact in the long run and at all times.

Every sample of a source with weight 2 is seen twice as often as one of weight 1; so source i has the share
weight_i * samples_i of all draws. Along a lane, the first n draws give source i floor(n * share_i + phase) of them, one
source split off from the rest at a time: the counts are never off by more than one a split, and the position within
the source follows without a table. The phases of the lanes are spread evenly over [0, 1) in an order of their own for
each split, so that every global batch is mixed too.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np


@dataclass(frozen=True)
class Draw:
    """A place of a step, in terms of its source."""

    source: int
    lane: int
    position: int
    """In the lane's sequence of samples of this source."""


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
        """Of each source, of all draws."""
        generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
        self._phases = [
            [int(lane) * rest // num_lanes for lane in generator.permutation(num_lanes)] for rest in self._rests
        ]

    def draw(self, step: int, place: int) -> Draw:
        """place: 0 .. samples_per_step - 1."""
        lane, offset = divmod(place, self.per_lane)
        number = step * self.per_lane + offset
        for source in range(len(self._parts)):
            before = self._count(source, lane, number)
            if self._count(source, lane, number + 1) > before:
                return Draw(source, lane, before)
            number -= before
        raise AssertionError("the last source takes all that is left")

    def seen(self, step: int) -> list[int]:
        """Samples drawn from each source before `step`."""
        seen = [0] * len(self._parts)
        for lane in range(self.num_lanes):
            number = step * self.per_lane
            for source in range(len(self._parts)):
                count = self._count(source, lane, number)
                seen[source] += count
                number -= count
        return seen

    def _count(self, source: int, lane: int, number: int) -> int:
        """Draws of a source among the first `number` that came to its split."""
        return (number * self._parts[source] + self._phases[source][lane]) // self._rests[source]
