"""Keys and values of earlier tokens, for decoding captions.

The captions that a beam search follows for one image, its beams, lie in one sequence behind the image: its keys and
values are in memory once, whatever the number of beams, and read once per step.

Shapes: P pairs, S tokens so far (image first, then the captions' tokens, those of one time side by side), K beams,
H heads, D head dim.
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
        """Append those of n new tokens, (P, n, H, D), and return all so far, (P, S, H, D)."""
        if self._keys is not None and self._values is not None:
            keys, values = torch.cat([self._keys, keys], dim=1), torch.cat([self._values, values], dim=1)
        self._keys, self._values = keys, values
        return keys, values

    def drop_last(self, num_tokens: int) -> None:
        """Drop the newest tokens."""
        assert self._keys is not None and self._values is not None and num_tokens <= self.num_tokens
        kept = self.num_tokens - num_tokens
        self._keys, self._values = self._keys[:, :kept], self._values[:, :kept]

    def select(self, rows: Tensor) -> None:
        """Replace the newest n tokens by those at rows (P, n), counted from the first of the n."""
        assert self._keys is not None and self._values is not None
        first = self.num_tokens - rows.shape[1]
        self._keys, self._values = (
            torch.cat([x[:, :first], x[:, first:].take_along_dim(rows[..., None, None], dim=1)], dim=1)
            for x in (self._keys, self._values)
        )


class KeyValueCache:
    """One `LayerCache` per block. Filled by a forward on pairs, extended by `MultiwayTransformer.decode`."""

    def __init__(self, depth: int, num_beams: int = 1):
        self.layers = [LayerCache() for _ in range(depth)]
        self.num_beams = num_beams
        """Number of captions of each image."""
        self.num_caption_tokens = 0
        """Number of tokens of each caption."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of an image and all of its captions in the cache."""
        return self.layers[0].num_tokens

    def drop_last(self, num_tokens: int) -> None:
        """Drop the newest tokens of every caption."""
        assert num_tokens <= self.num_caption_tokens
        for layer in self.layers:
            layer.drop_last(num_tokens * self.num_beams)
        self.num_caption_tokens -= num_tokens

    def reorder_beams(self, parents: Tensor) -> None:
        """Continue from other beams: beam k of an image takes over the tokens of beam parents[p, k], (P, K) int64."""
        times = torch.arange(self.num_caption_tokens, device=parents.device) * self.num_beams
        rows = (times[:, None] + parents[:, None]).flatten(1)  # (P, times * K)
        for layer in self.layers:
            layer.select(rows)


def decoding_mask(cache: KeyValueCache, num_new: int, device: torch.device) -> Tensor:
    """Return an (n * K, S + n * K) bool mask, True where one of n new tokens of K beams may see a token.

    A token sees its image, and the tokens of its own beam up to itself.
    """
    num_times, num_beams = cache.num_caption_tokens + num_new, cache.num_beams
    times = torch.ones(num_new, num_times, dtype=torch.bool, device=device).tril(cache.num_caption_tokens)
    beams = torch.eye(num_beams, dtype=torch.bool, device=device)
    captions = (times[:, None, :, None] & beams[:, None, :]).flatten(2).flatten(0, 1)
    num_image_tokens = cache.num_tokens - cache.num_caption_tokens * num_beams
    return torch.nn.functional.pad(captions, (num_image_tokens, 0), value=True)
