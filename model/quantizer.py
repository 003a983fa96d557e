"""VQ-KD's codebook: nearest code by cosine, learned by exponential moving averages, not by gradients.

Source: BEiT v2 (arXiv 2208.06366), section 3.1, and unilm/beit2/norm_ema_quantizer.py. Ours: dead codes are revived.

Shapes: N features, K codes, d code dim. Features and codes are compared as unit vectors, in float32.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

KMEANS_ITERATIONS = 10


class Codebook(nn.Module):
    """K unit vectors of d dimensions. `forward` reads them and changes nothing; `update` learns from a batch."""

    codes: Tensor
    cluster_sizes: Tensor
    is_initialized: Tensor

    def __init__(self, num_codes: int, dim: int, decay: float, revival_threshold: float):
        """decay: of the moving averages; revival_threshold: a code is dead when the moving average of its features per
        batch falls below this part of an even share."""
        super().__init__()
        self.decay = decay
        self.revival_threshold = revival_threshold
        self.register_buffer("codes", torch.zeros(num_codes, dim))
        self.register_buffer("cluster_sizes", torch.zeros(num_codes))
        self.register_buffer("is_initialized", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        """(N, d) features of any length -> (N,) indices of the nearest codes."""
        return (normalize(features.float(), dim=-1) @ self.codes.T).argmax(dim=-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """(...) indices -> (..., d) codes."""
        return self.codes[ids]

    @torch.no_grad()
    def update(self, features: Tensor, generator: torch.Generator) -> None:
        """Move the codes towards (N, d) features: k-means at the first call, then moving averages and revival.

        Raises ValueError where the first batch holds fewer features than there are codes.
        """
        features = normalize(features.float(), dim=-1)
        if not self.is_initialized:
            self._start(features, generator)
        sums, counts = self._assign(features)
        self.cluster_sizes.lerp_(counts, 1 - self.decay)
        means = torch.where(counts[:, None] > 0, normalize(sums, dim=-1), self.codes)
        self.codes.copy_(normalize(torch.lerp(self.codes, means, 1 - self.decay), dim=-1))
        self._revive(features, generator)

    def _start(self, features: Tensor, generator: torch.Generator) -> None:
        """Spherical k-means from randomly chosen features."""
        if len(features) < len(self.codes):
            raise ValueError(
                f"the first batch has {len(features)} features for {len(self.codes)} codes; "
                "enlarge the batch or use fewer codes"
            )
        self.codes.copy_(features[_draw(len(features), len(self.codes), features.device, generator)])
        for _ in range(KMEANS_ITERATIONS):
            sums, counts = self._assign(features)
            self.codes.copy_(torch.where(counts[:, None] > 0, normalize(sums, dim=-1), self.codes))
        self.cluster_sizes.copy_(self._assign(features)[1])
        self.is_initialized.fill_(True)

    def _assign(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Sum (K, d) and number (K,) of the features nearest to each code."""
        ids = self(features)
        sums = torch.zeros_like(self.codes).index_add_(0, ids, features)
        return sums, torch.bincount(ids, minlength=len(self.codes)).to(sums.dtype)

    def _revive(self, features: Tensor, generator: torch.Generator) -> None:
        """Put dead codes onto features of this batch, with the size of an average cluster."""
        even_share = len(features) / len(self.codes)
        dead = self.cluster_sizes < self.revival_threshold * even_share
        fresh = features[_draw(len(features), len(self.codes), features.device, generator)]
        self.codes.copy_(torch.where(dead[:, None], fresh, self.codes))
        self.cluster_sizes.copy_(torch.where(dead, even_share, self.cluster_sizes))


def _draw(num_features: int, num_codes: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """(num_codes,) indices of features, distinct as far as there are enough."""
    order = torch.randperm(num_features, generator=generator)
    return order.repeat(-(-num_codes // num_features))[:num_codes].to(device)
