"""Keys and values of earlier tokens, for decoding captions.

Shapes: P pairs, S tokens so far (image first, then the caption), H heads, K head dim.
"""

import torch
from torch import Tensor


class LayerCache:
    """The keys and values of one block."""

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return 0 if self._keys is None else self._keys.shape[1]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of n new tokens, (P, n, H, K), and return all so far, (P, S, H, K)."""
        if self._keys is not None and self._values is not None:
            keys, values = torch.cat([self._keys, keys], dim=1), torch.cat([self._values, values], dim=1)
        self._keys, self._values = keys, values
        return keys, values

    def drop_last(self, num_tokens: int) -> None:
        """Drop the newest tokens."""
        assert self._keys is not None and self._values is not None and num_tokens <= self.num_tokens
        kept = self.num_tokens - num_tokens
        self._keys, self._values = self._keys[:, :kept], self._values[:, :kept]


class KeyValueCache:
    """One `LayerCache` per block. Filled by a forward on pairs, extended by `MultiwayTransformer.decode`."""

    def __init__(self, depth: int):
        self.layers = [LayerCache() for _ in range(depth)]
        self.num_caption_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Number of image and caption tokens in the cache."""
        return self.layers[0].num_tokens

    def drop_last(self, num_tokens: int) -> None:
        """Drop the newest tokens of every caption."""
        assert num_tokens <= self.num_caption_tokens
        for layer in self.layers:
            layer.drop_last(num_tokens)
        self.num_caption_tokens -= num_tokens
