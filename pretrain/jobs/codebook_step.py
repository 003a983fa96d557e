"""The codebook's part of a training step: the same codes on every rank, whatever the number of ranks.

Every rank holds an equal part of the step's features, in the order of the global batch. Which of them start k-means or
revive dead codes is drawn by place in the global batch from (seed, step), so that nothing depends on the topology and
no random state has to be saved.
"""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from model.quantizer import Codebook
from pretrain.survival.agreement import summed_over_ranks

KMEANS_FEATURES_PER_CODE = 16
"""Largest number of features per code that k-means starts from."""
LIVE_STEPS = 100
"""Number of last steps in one of which a live code was used."""
CODEBOOK_FIGURES = ("usage", "perplexity", "live_share")
"""Names of what `update_codebook` returns."""


def start_codebook(codebook: Codebook, features: Tensor, seed: int) -> None:
    """Run k-means over features of all ranks; all take the main rank's codes. All ranks call it.

    features: (n, d) of this rank. Raises ValueError, on every rank, if all together are fewer than the codes.
    """
    num_features = len(features) * dist.get_world_size()
    num_drawn = min(num_features, KMEANS_FEATURES_PER_CODE * len(codebook.codes))
    drawn = rows_of_all_ranks(features, np.random.default_rng([seed, 0]).permutation(num_features)[:num_drawn])
    codebook.start(drawn, num_features)
    for buffer in codebook.buffers():
        dist.broadcast(buffer, 0)  # ranks may round differently


def update_codebook(
    codebook: Codebook, features: Tensor, decay: float, revival_threshold: float, seed: int, step: int
) -> dict[str, Tensor]:
    """Move the codes towards a step's features (n, d) of all ranks and revive dead ones. All ranks call it.

    Returns how the global batch uses the codes, for the log; the values are still on the device:
        usage       share of the codes that it uses
        perplexity  exp(entropy of the codes): 1 if all features have one code, their number if all are used evenly
        live_share  share of the codes used in the last LIVE_STEPS steps
    """
    num_codes = len(codebook.codes)
    sums, counts = codebook.assign(features)
    num_features = len(features) * dist.get_world_size()
    order = np.random.default_rng([seed, 1, step]).permutation(num_features)
    fresh = _own_rows(features, np.resize(order, num_codes))
    # one collective for all three: each costs the latency of the network
    agreed = summed_over_ranks(torch.cat([sums, counts[:, None], fresh], dim=1))
    sums, counts, fresh = agreed.split([sums.shape[1], 1, fresh.shape[1]], dim=1)
    codebook.move(sums, counts[:, 0], fresh, decay, revival_threshold)
    shares = counts[:, 0] / num_features
    usage = (shares > 0).float().mean()
    perplexity = torch.special.entr(shares).sum().exp()
    live_share = (codebook.steps_unused < LIVE_STEPS).float().mean()
    return dict(zip(CODEBOOK_FIGURES, (usage, perplexity, live_share), strict=True))


def rows_of_all_ranks(features: Tensor, rows: np.ndarray) -> Tensor:
    """Return the features at these places of the global batch, on every rank. features: (n, d) of this rank."""
    return summed_over_ranks(_own_rows(features, rows))


def _own_rows(features: Tensor, rows: np.ndarray) -> Tensor:
    """Return (len(rows), d): the rows that this rank holds, zeros for the others."""
    first = dist.get_rank() * len(features)
    is_own = _to_device((rows >= first) & (rows < first + len(features)), features.device)
    local = _to_device(np.clip(rows - first, 0, len(features) - 1), features.device)
    return torch.where(is_own[:, None], features.float()[local], 0)


def _to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy without waiting: from pageable memory a copy to a GPU would wait for all that was launched before it."""
    host = torch.from_numpy(values)
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)
