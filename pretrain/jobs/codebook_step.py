"""The codebook's part of a training step: the same codes on every rank, whatever the number of ranks.

Every rank holds an equal part of the step's features, in the order of the global batch. Which of them start k-means or
revive dead codes is drawn by place in the global batch from (seed, step), so that nothing depends on the topology and
nothing random has to be saved.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from model.quantizer import Codebook
from pretrain.survival.agreement import summed_over_ranks

KMEANS_FEATURES_PER_CODE = 16
"""Features that k-means looks at, at most."""
LIVE_STEPS = 100
"""A code is live when it was used in so many last steps."""


@dataclass(frozen=True)
class CodebookUse:
    """How a step's global batch uses the codes."""

    usage: float
    """Share of the codes that it uses."""
    perplexity: float
    """exp(entropy of the codes), 1 .. number of codes: as many codes, used evenly, would say as much."""
    live_share: float
    """Share of the codes used in the last LIVE_STEPS steps."""


def start_codebook(codebook: Codebook, features: Tensor, seed: int) -> None:
    """K-means over features of all ranks; the main rank's codes on every rank. All ranks call it.

    features: (n, d) of this rank. Raises ValueError, on every rank, where all together are fewer than the codes.
    """
    num_features = len(features) * dist.get_world_size()
    num_drawn = min(num_features, KMEANS_FEATURES_PER_CODE * len(codebook.codes))
    drawn = rows_of_all_ranks(features, np.random.default_rng([seed, 0]).permutation(num_features)[:num_drawn])
    codebook.start(drawn, num_features)
    for buffer in codebook.buffers():
        dist.broadcast(buffer, 0)


def update_codebook(
    codebook: Codebook, features: Tensor, decay: float, revival_threshold: float, seed: int, step: int
) -> CodebookUse:
    """Move the codes towards a step's features (n, d) of all ranks and revive dead ones. All ranks call it."""
    num_codes = len(codebook.codes)
    sums, counts = codebook.assign(features)
    num_features = len(features) * dist.get_world_size()
    order = np.random.default_rng([seed, 1, step]).permutation(num_features)
    fresh = _own_rows(features, np.resize(order, num_codes))
    # one sum over ranks for all three
    agreed = summed_over_ranks(torch.cat([sums, counts[:, None], fresh], dim=1))
    sums, counts, fresh = agreed.split([sums.shape[1], 1, fresh.shape[1]], dim=1)
    codebook.move(sums, counts[:, 0], fresh, decay, revival_threshold)
    shares = counts[:, 0] / num_features
    use = torch.stack(
        [
            (shares > 0).float().mean(),
            torch.special.entr(shares).sum().exp(),
            (codebook.steps_unused < LIVE_STEPS).float().mean(),
        ]
    )
    return CodebookUse(*use.tolist())


def rows_of_all_ranks(features: Tensor, rows: np.ndarray) -> Tensor:
    """The features at these places of the global batch, the same on every rank. features: (n, d) of this rank."""
    return summed_over_ranks(_own_rows(features, rows))


def _own_rows(features: Tensor, rows: np.ndarray) -> Tensor:
    """(len(rows), d): the rows that this rank holds, zeros for the others."""
    first = dist.get_rank() * len(features)
    own = torch.from_numpy((rows >= first) & (rows < first + len(features))).to(features.device)
    local = torch.from_numpy(np.clip(rows - first, 0, len(features) - 1)).to(features.device)
    return torch.where(own[:, None], features.float()[local], 0)
