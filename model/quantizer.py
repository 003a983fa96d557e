"""VQ-KD's codebook: nearest code by cosine, learned by exponential moving averages instead of gradients.

`forward` and `lookup` read it; `start` and `move` change it. Nothing here communicates: pretrain/jobs/codebook_step.py
sums the results of `assign` over all ranks and then calls `move` on every rank.

Source: BEiT v2 (arXiv 2208.06366), section 3.1, and unilm/beit2/norm_ema_quantizer.py. The revival of dead codes is
ours.

Shapes: N features, K codes, d code dim. Features and codes are compared as unit vectors, in float32.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

KMEANS_ITERATIONS = 10
CHUNK = 8192
"""Number of features compared with all codes at once: 256 MiB of similarities for 8192 codes."""


class Codebook(nn.Module):
    """K unit vectors of d dimensions, and the use of each."""

    codes: Tensor
    """(K, d) unit vectors."""
    cluster_sizes: Tensor
    """(K,) moving average of the number of features per step that are nearest to each code."""
    steps_unused: Tensor
    """(K,) number of steps since a feature was nearest to each code."""
    is_initialized: Tensor
    """Whether `start` or `start_randomly` was called, a scalar bool."""

    def __init__(self, num_codes: int, dim: int):
        super().__init__()
        self.register_buffer("codes", torch.zeros(num_codes, dim))
        self.register_buffer("cluster_sizes", torch.zeros(num_codes))
        self.register_buffer("steps_unused", torch.zeros(num_codes))
        self.register_buffer("is_initialized", torch.tensor(False))

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """Return the indices of the nearest codes, (N,), of features (N, d) of any norm. Changes no state."""
        # |z - e|^2 is smallest where z . e - |e|^2 / 2 is largest: one matrix product. The bias matters for published
        # codebooks, whose codes are not exactly of length 1.
        bias = -0.5 * self.codes.square().sum(1)
        chunks = normalize(features.float(), dim=-1).split(CHUNK)
        return torch.cat([torch.addmm(bias, chunk, self.codes.T).argmax(1) for chunk in chunks])

    def lookup(self, ids: Tensor) -> Tensor:
        """Return the codes (..., d) of indices (...)."""
        return self.codes[ids]

    @torch.no_grad()
    def assign(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum (K, d) and the number (K,) of the features nearest to each code; ranks can add theirs."""
        sums, counts = torch.zeros_like(self.codes), torch.zeros_like(self.cluster_sizes)
        for chunk in normalize(features.float(), dim=-1).split(CHUNK):
            is_nearest = one_hot(self(chunk), len(self.codes)).to(sums.dtype)
            sums += is_nearest.T @ chunk  # the same bits in every run, unlike index_add on a GPU
            counts += is_nearest.sum(0)
        return sums, counts

    @torch.no_grad()
    def start(self, features: Tensor, num_features: int | None = None) -> None:
        """Initialize the codes by spherical k-means over features (N, d) in random order.

        num_features: number of features in the whole step, None = N. Raises ValueError if there are fewer features than
        codes.
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
        """Initialize the codes with random directions, as the original without --quantize_kmeans_init.

        num_features: number of features per step. Every code begins with an even share of them, so that unused codes
        are revived after a while instead of all in the first step.
        """
        self.codes.copy_(normalize(torch.randn(self.codes.shape, generator=generator), dim=-1))
        self.cluster_sizes.fill_(num_features / len(self.codes))
        self.is_initialized.fill_(True)

    @torch.no_grad()
    def move(self, sums: Tensor, counts: Tensor, fresh: Tensor, decay: float, revival_threshold: float) -> None:
        """Move each code towards the mean of the step's features nearest to it, and revive dead codes.

        sums (K, d) and counts (K,): `assign`, summed over all ranks; fresh (K, d): random features of this step, which
        replace dead codes; decay: of the moving averages; revival_threshold: a code is dead if the moving average of
        its features falls below this fraction of an even share, 0 = never.
        """
        self.cluster_sizes.lerp_(counts, 1 - decay)
        # a code without features in this step stays where it is
        means = torch.where(counts[:, None] > 0, normalize(sums, dim=-1), self.codes)
        moved = normalize(torch.lerp(self.codes, means, 1 - decay), dim=-1)
        self.steps_unused.copy_(torch.where(counts > 0, 0, self.steps_unused + 1))
        even_share = counts.sum() / len(counts)
        dead = self.cluster_sizes < revival_threshold * even_share
        self.codes.copy_(torch.where(dead[:, None], normalize(fresh.float(), dim=-1), moved))
        # an even share, so that a revived code has time to attract features before it counts as dead again
        self.cluster_sizes.copy_(torch.where(dead, even_share, self.cluster_sizes))
