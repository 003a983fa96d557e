"""The order of samples: which sample of a source is at each position of a lane, as a pure function of the seed.

Lanes. The samples are dealt to a fixed number of lanes, each a contiguous range of the index, so nearly whole shards. A
global batch takes the same number of samples from each lane. Lanes are what makes the order independent of the
topology and the reading cheap at once: places of a batch belong to lanes, ranks take ranges of places, and a rank that
owns whole lanes reads only their shards. One shuffle over all samples would have every rank read every shard.

Windows. A lane permutes its shards in every pass, and the samples within a window of consecutive shards: random enough
to mix a shard with its neighbors, local enough that few shards are open, or on a node's disk, at a time. The next
window is known in advance, so it can be fetched ahead. A pass of a lane visits each of its samples once.

If the lanes do not divide the samples, some ranges are one sample shorter, and since all lanes advance together their
samples recur more often: k + 1 times for k, with ranges of k and k + 1. That is little for a large k. Lanes with fewer
than MIN_SAMPLES_PER_LANE samples take turns along one sequence of all samples instead, so that no sample recurs before
all of them have been visited.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MIN_SAMPLES_PER_LANE = 16
"""Lanes of this size have ranges of their own: the visits of two samples then differ by at most 1/16 plus two."""


class SampleOrder:
    """Maps (lane, position) to a sample of one source."""

    def __init__(self, shard_sizes: list[int], num_lanes: int, window_shards: int, seed: int) -> None:
        """shard_sizes: the number of samples of each shard, in the order of the index."""
        num_samples = sum(shard_sizes)
        assert num_samples >= num_lanes, f"{num_samples} samples cannot fill {num_lanes} lanes"
        self.seed = seed
        self.takes_turns = num_samples % num_lanes != 0 and num_samples // num_lanes < MIN_SAMPLES_PER_LANE
        """Whether the lanes take turns along one sequence."""
        num_ranges = 1 if self.takes_turns else num_lanes
        self.lane_stride = num_lanes // num_ranges
        self.window_shards = window_shards * self.lane_stride
        self.lane_starts = [lane * num_samples // num_ranges for lane in range(num_ranges + 1)]
        self.shard_starts = np.cumsum([0, *shard_sizes])
        self._window = lru_cache(maxsize=2 * num_lanes)(self._permuted_window)
        self._pass = lru_cache(maxsize=2 * num_lanes)(self._permuted_shards)

    # the caches wrap bound methods, which cannot be pickled for another process
    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_window", "_pass")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._window = lru_cache(maxsize=2 * len(self.lane_starts))(self._permuted_window)
        self._pass = lru_cache(maxsize=2 * len(self.lane_starts))(self._permuted_shards)

    def sample(self, lane: int, position: int) -> int:
        """Return the number in the index of the sample at `position` of the lane's sequence, which has no end."""
        lane, position = self._in_range(lane, position)
        pass_number, window, offset = self._locate(lane, position)
        return int(self._window(lane, pass_number, window)[offset])

    def window(self, lane: int, position: int) -> tuple[int, int]:
        """Return the pass and the window of a position."""
        return self._locate(*self._in_range(lane, position))[:2]

    def shards_after(self, lane: int, position: int) -> list[int]:
        """Return the numbers of the shards in the window after that of `position`."""
        lane, position = self._in_range(lane, position)
        pass_number, window, _ = self._locate(lane, position)
        windows = self._pass(lane, pass_number)[1]
        following = windows[window + 1] if window + 1 < len(windows) else self._pass(lane, pass_number + 1)[1][0]
        return [int(np.searchsorted(self.shard_starts, start, side="right")) - 1 for start, _ in following]

    def _in_range(self, lane: int, position: int) -> tuple[int, int]:
        """Return the range of samples that a lane reads, and the position in the range's sequence."""
        return (0, position * self.lane_stride + lane) if self.takes_turns else (lane, position)

    def _locate(self, lane: int, position: int) -> tuple[int, int, int]:
        """Return pass, window, and offset in the window."""
        lane_size = self.lane_starts[lane + 1] - self.lane_starts[lane]
        pass_number, in_pass = divmod(position, lane_size)
        starts, _ = self._pass(lane, pass_number)
        window = int(np.searchsorted(starts, in_pass, side="right")) - 1
        return pass_number, window, in_pass - int(starts[window])

    def _permuted_shards(self, lane: int, pass_number: int) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """Return where each window of a pass starts, and the (start, stop) ranges of the samples in each window."""
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
        # counter-based: any pass of any lane can be drawn first, so that a run resumes anywhere without replaying
        return np.random.Generator(np.random.Philox(key=[self.seed, pass_number], counter=[0, 0, lane, purpose]))
