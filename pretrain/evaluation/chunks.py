"""How ranks share the samples of an evaluation, so that its figures are the same on any number of them.

Samples are cut by their place into chunks of a fixed size, the last perhaps smaller, and the ranks take turns: rank r
of W computes chunks r, r + W, r + 2 W. What a chunk gives depends on its samples alone, so the rows of all samples are
the same whatever W is, and every figure is computed from them in their order. A rank without a chunk in the last round
repeats the first one and drops the result: ZeRO-3 gathers weights in forward, and a rank that made fewer forwards than
the others would leave them waiting.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.survival.agreement import FatalRunError, summed_over_hosts, summed_over_ranks

MOST_NAMED = 3
"""Samples that a message names."""
Name = Callable[[int], str]
"""Returns how messages name the sample at a place."""


class Interrupted(Exception):
    """Raised on every rank if the run is asked to stop during an evaluation."""


class NotFiniteError(FatalRunError):
    """Raised, in an evaluation on every rank, if outputs of the network hold NaN or infinity."""


@dataclass(frozen=True)
class Ranks:
    """This rank among those that evaluate together."""

    rank: int = 0
    world_size: int = 1
    is_asked_to_stop: Callable[[], bool] | None = None
    """Whether this rank is asked to stop. None: an evaluation is not interrupted."""

    def own_chunks(self, num_samples: int, chunk_size: int) -> Iterator[tuple[range, bool]]:
        """Yield places of this rank's chunks in order, and whether the result counts; equally many on every rank."""
        num_chunks = -(-num_samples // chunk_size)
        for first in range(0, num_chunks, self.world_size):
            chunk = first + self.rank
            counts = chunk < num_chunks
            start = chunk * chunk_size if counts else 0
            yield range(start, min(start + chunk_size, num_samples)), counts

    def by_place(
        self,
        num_samples: int,
        chunk_size: int,
        compute: Callable[[range], Tensor],
        device: torch.device,
        name: Name = "sample {}".format,
    ) -> Tensor:
        """Return the rows of all samples, (num_samples, n) float32 on the host, the same on every rank.

        compute: called with the places of a chunk, returns a row per place, (places, n). All ranks call it; it may hold
        collectives. Raises Interrupted, and NotFiniteError with the names of samples whose rows are not finite.
        """
        rows: Tensor | None = None
        for places, counts in self.own_chunks(num_samples, chunk_size):
            self.check_stop()
            found = compute(places).float()
            if rows is None:
                rows = torch.zeros(num_samples, found.shape[1], device=device)
            if counts:
                rows[places.start : places.stop] = found
        assert rows is not None, "no samples"
        # each row is not zero on one rank only, so that the sum is exact
        rows = (summed_over_ranks(rows) if self.world_size > 1 else rows).cpu()
        check_finite(rows, name)
        return rows

    def check_stop(self) -> None:
        """Raise Interrupted on every rank if any of them is asked to stop. All ranks call it."""
        if self.is_asked_to_stop is None:
            return
        (num_asked,) = summed_over_hosts([self.is_asked_to_stop()])
        if num_asked:
            raise Interrupted


def check_finite(rows: Tensor, name: Name) -> None:
    """Raise NotFiniteError, naming the first samples, if any row of (n, ...) holds NaN or infinity."""
    places = (~rows.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
    if places:
        named = ", ".join(map(name, places[:MOST_NAMED])) + ", ..." * (len(places) > MOST_NAMED)
        raise NotFiniteError(
            f"the network's outputs hold NaN or infinity for {len(places)} of {len(rows)} samples ({named}); take "
            "weights from before it diverged, or compute in float32"
        )


def ranks_of_the_run(is_asked_to_stop: Callable[[], bool]) -> Ranks:
    """Return this rank among all of the process group."""
    return Ranks(dist.get_rank(), dist.get_world_size(), is_asked_to_stop)
