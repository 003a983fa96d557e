"""Which sample stands at which place of which step: a pure function of the seed.

Samples are dealt to a fixed number of lanes, each a contiguous range of the index, so nearly whole shards. A global
batch takes the same number from each lane, and a rank that owns whole lanes reads only their shards, each nearly in
sequence. Within a lane the shards are permuted every pass, and the samples within a window of consecutive shards; a
pass of a lane visits each of its samples once. Nothing here depends on rank, world size or number of workers.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class SampleOrder:
    """The map (step, place in the global batch) -> sample of one kind."""

    def __init__(
        self, shard_sizes: list[int], samples_per_step: int, num_lanes: int, window_shards: int, seed: int
    ) -> None:
        """shard_sizes: samples of each shard, in the order of the index; samples_per_step: of this kind, in the global
        batch. Raises ValueError where the lanes do not fit."""
        num_samples = sum(shard_sizes)
        if samples_per_step % num_lanes:
            raise ValueError(f"num_lanes {num_lanes} must divide the {samples_per_step} samples a step; change one")
        if num_samples < num_lanes:
            raise ValueError(f"{num_samples} samples cannot fill {num_lanes} lanes; use fewer lanes or more samples")
        self.per_lane = samples_per_step // num_lanes
        self.window_shards = window_shards
        self.seed = seed
        self.lane_starts = [lane * num_samples // num_lanes for lane in range(num_lanes + 1)]
        self.shard_starts = np.cumsum([0, *shard_sizes])
        self._window = lru_cache(maxsize=2 * num_lanes)(self._permuted_window)
        self._pass = lru_cache(maxsize=2 * num_lanes)(self._permuted_shards)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_window", "_pass")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._window = lru_cache(maxsize=2 * len(self.lane_starts))(self._permuted_window)
        self._pass = lru_cache(maxsize=2 * len(self.lane_starts))(self._permuted_shards)

    def sample(self, step: int, place: int) -> int:
        """Number in the index of the sample at `place` (0 .. samples_per_step - 1) of `step`."""
        lane, offset = divmod(place, self.per_lane)
        lane_size = self.lane_starts[lane + 1] - self.lane_starts[lane]
        pass_number, position = divmod(step * self.per_lane + offset, lane_size)
        starts, _ = self._pass(lane, pass_number)
        window = int(np.searchsorted(starts, position, side="right")) - 1
        return int(self._window(lane, pass_number, window)[position - starts[window]])

    def _permuted_shards(self, lane: int, pass_number: int) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """Where in the pass each window of the lane starts, and the (start, stop) ranges of samples in each."""
        cuts = self.shard_starts.clip(self.lane_starts[lane], self.lane_starts[lane + 1])
        ranges = np.stack([cuts[:-1], cuts[1:]], axis=1)
        ranges = ranges[ranges[:, 0] < ranges[:, 1]]
        ranges = ranges[self._generator(lane, pass_number, 0).permutation(len(ranges))]
        windows = [ranges[i : i + self.window_shards] for i in range(0, len(ranges), self.window_shards)]
        sizes = [int((window[:, 1] - window[:, 0]).sum()) for window in windows]
        return np.cumsum([0, *sizes[:-1]]), windows

    def _permuted_window(self, lane: int, pass_number: int, window: int) -> NDArray[np.int64]:
        ranges = self._pass(lane, pass_number)[1][window]
        samples = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        return self._generator(lane, pass_number, window + 1).permutation(samples)

    def _generator(self, lane: int, pass_number: int, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, pass_number], counter=[0, 0, lane, purpose]))
