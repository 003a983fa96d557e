"""VQ-KD's codebook: nearest code by cosine, learned by exponential moving averages, not by gradients.

`forward` and `lookup` read it; `start` and `move` change it. Nothing here talks to other ranks: what `assign` gives is
summed over all of them first, by pretrain/jobs/codebook_step.py.

Source: BEiT v2 (arXiv 2208.06366), section 3.1, and unilm/beit2/norm_ema_quantizer.py. Ours: dead codes are revived.

Shapes: N features, K codes, d code dim. Features and codes are compared as unit vectors, in float32.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

KMEANS_ITERATIONS = 10
CHUNK = 8192
"""Features that are compared with all codes at once: 256 MiB for 8192 codes."""


class Codebook(nn.Module):
    """K unit vectors of d dimensions, and how much each of them is used."""

    codes: Tensor
    cluster_sizes: Tensor
    """(K,) moving average of the features of a step that are nearest to each code."""
    steps_unused: Tensor
    """(K,) steps since a feature was nearest to each code."""
    is_initialized: Tensor

    def __init__(self, num_codes: int, dim: int):
        super().__init__()
        self.register_buffer("codes", torch.zeros(num_codes, dim))
        self.register_buffer("cluster_sizes", torch.zeros(num_codes))
        self.register_buffer("steps_unused", torch.zeros(num_codes))
        self.register_buffer("is_initialized", torch.tensor(False))

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """(N, d) features of any length -> (N,) indices of the nearest codes. Changes no state."""
        # |z - e|^2 is least where z . e - |e|^2 / 2 is greatest
        bias = -0.5 * self.codes.square().sum(1)
        chunks = normalize(features.float(), dim=-1).split(CHUNK)
        return torch.cat([torch.addmm(bias, chunk, self.codes.T).argmax(1) for chunk in chunks])

    def lookup(self, ids: Tensor) -> Tensor:
        """(...) indices -> (..., d) codes."""
        return self.codes[ids]

    @torch.no_grad()
    def assign(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Sum (K, d) and number (K,) of the features nearest to each code. Those of all ranks add up."""
        sums, counts = torch.zeros_like(self.codes), torch.zeros_like(self.cluster_sizes)
        for chunk in normalize(features.float(), dim=-1).split(CHUNK):
            is_nearest = one_hot(self(chunk), len(self.codes)).to(sums.dtype)
            sums += is_nearest.T @ chunk  # the same bits in every run; adding by index is not, on a GPU
            counts += is_nearest.sum(0)
        return sums, counts

    @torch.no_grad()
    def start(self, features: Tensor, num_features: int | None = None) -> None:
        """Spherical k-means over (N, d) features in random order; num_features: of the whole step, None: those are all.

        Raises ValueError for fewer features than codes.
        """
        if len(features) < len(self.codes):
            raise ValueError(
                f"the first step has {len(features)} features for {len(self.codes)} codes; "
                "enlarge the batch or use fewer codes"
            )
        self.codes.copy_(normalize(features[: len(self.codes)].float(), dim=-1))
        for _ in range(KMEANS_ITERATIONS):
            sums, counts = self.assign(features)
            self.codes.copy_(torch.where(counts[:, None] > 0, normalize(sums, dim=-1), self.codes))
        self.cluster_sizes.copy_(self.assign(features)[1] * ((num_features or len(features)) / len(features)))
        self.is_initialized.fill_(True)

    @torch.no_grad()
    def start_randomly(self, num_features: int, generator: torch.Generator) -> None:
        """Random directions, as the original without --quantize_kmeans_init; num_features: of a step.

        Every code begins with an even share, so that those that are never used die with time, not at once.
        """
        self.codes.copy_(normalize(torch.randn(self.codes.shape, generator=generator), dim=-1))
        self.cluster_sizes.fill_(num_features / len(self.codes))
        self.is_initialized.fill_(True)

    @torch.no_grad()
    def move(self, sums: Tensor, counts: Tensor, fresh: Tensor, decay: float, revival_threshold: float) -> None:
        """Move each code towards the mean of a step's features nearest to it, and revive dead codes.

        sums (K, d) and counts (K,): of all ranks; fresh (K, d): features of this step, chosen at random, to put dead
        codes onto; decay: of the moving averages; revival_threshold: a code is dead when the moving average of its
        features falls below this part of an even share, 0: never.
        """
        self.cluster_sizes.lerp_(counts, 1 - decay)
        means = torch.where(counts[:, None] > 0, normalize(sums, dim=-1), self.codes)
        moved = normalize(torch.lerp(self.codes, means, 1 - decay), dim=-1)
        self.steps_unused.copy_(torch.where(counts > 0, 0, self.steps_unused + 1))
        even_share = counts.sum() / len(counts)
        dead = self.cluster_sizes < revival_threshold * even_share
        self.codes.copy_(torch.where(dead[:, None], normalize(fresh.float(), dim=-1), moved))
        self.cluster_sizes.copy_(torch.where(dead, even_share, self.cluster_sizes))
