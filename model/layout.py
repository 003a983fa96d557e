"""Which rows of the packed (N, D) matrix belong to which modality.

The rows are ordered

    [ image-only | pair images | pair texts | text-only ]

so that each expert works on one contiguous slice:

    vision            image-only + pair images
    language          pair texts + text-only
    vision-language   pair images + pair texts   (top blocks; vision and language keep the rest)

Shapes: I image-only samples, P pairs, T texts; V tokens an image, C tokens a caption, L tokens a text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.expert_rows import ExpertRows

SHARED = ("shared",)
TWO_EXPERTS = ("vision", "language")
THREE_EXPERTS = ("vision", "vision_language", "language")


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """An immutable description of a packed step; an argument of every multiway module, never its state."""

    num_images: int
    num_pairs: int
    num_texts: int
    image_tokens: int
    caption_tokens: int
    text_tokens: int
    pair_mask: Tensor | None = None
    """(P, 1, 1 or V+C, V+C) bool, True where a query may see a key. None: all is visible."""
    text_mask: Tensor | None = None
    """(T, 1, 1 or L, L) bool, True where a query may see a key. None: all is visible."""
    pair_sequences: Tensor | None = None
    """What `pair_mask` says, as `split_at_padding` gives it, for attention without a mask. None: the mask counts."""
    text_sequences: Tensor | None = None
    """What `text_mask` says, likewise."""

    @property
    def image_rows(self) -> slice:
        return slice(0, self.num_images * self.image_tokens)

    @property
    def pair_image_rows(self) -> slice:
        start = self.image_rows.stop
        return slice(start, start + self.num_pairs * self.image_tokens)

    @property
    def pair_text_rows(self) -> slice:
        start = self.pair_image_rows.stop
        return slice(start, start + self.num_pairs * self.caption_tokens)

    @property
    def text_rows(self) -> slice:
        start = self.pair_text_rows.stop
        return slice(start, start + self.num_texts * self.text_tokens)

    @property
    def num_rows(self) -> int:
        return self.text_rows.stop

    @property
    def group_samples(self) -> tuple[tuple[int, int], ...]:
        """Samples and tokens of each, of the four groups."""
        return (
            (self.num_images, self.image_tokens),
            (self.num_pairs, self.image_tokens),
            (self.num_pairs, self.caption_tokens),
            (self.num_texts, self.text_tokens),
        )

    @property
    def group_rows(self) -> list[int]:
        """How many rows each of the four groups has."""
        return [num_samples * num_tokens for num_samples, num_tokens in self.group_samples]

    def rows(self, num_experts: int) -> ExpertRows:
        """Which of so many experts each of the four groups belongs to: SHARED, TWO_EXPERTS or THREE_EXPERTS."""
        groups = (self.image_rows, self.pair_image_rows, self.pair_text_rows, self.text_rows)
        experts = {1: (0, 0, 0, 0), 2: (0, 0, 1, 1), 3: (0, 1, 1, 2)}[num_experts]
        return ExpertRows(tuple(group.stop for group in groups), experts)

    def sample_of_row(self, device: torch.device) -> Tensor:
        """(N,) the sample of each row: images 0..I-1, pairs I..I+P-1 (both of a pair's parts), then texts."""
        images, pairs, texts = torch.arange(self.num_images + self.num_pairs + self.num_texts, device=device).split(
            [self.num_images, self.num_pairs, self.num_texts]
        )
        return torch.cat(
            [
                images.repeat_interleave(self.image_tokens),
                pairs.repeat_interleave(self.image_tokens),
                pairs.repeat_interleave(self.caption_tokens),
                texts.repeat_interleave(self.text_tokens),
            ]
        )


def split_at_padding(lengths: Tensor, num_tokens: int) -> Tensor:
    """Samples of num_tokens, each as two sequences: so many tokens as `lengths` (B,) says, then its padding.

    Returns (2 * B + 1,) int32: where each sequence begins among the B * num_tokens tokens, and where the last one ends;
    a sequence may be empty. Attention within sequences hides padding from all that is none, without a mask and without
    waiting for the lengths; padding sees padding, which nobody reads.
    """
    begins = torch.arange(len(lengths) + 1, device=lengths.device) * num_tokens
    both = torch.stack([begins[:-1], begins[:-1] + lengths], dim=1).flatten()
    return torch.cat([both, begins[-1:]]).int()
