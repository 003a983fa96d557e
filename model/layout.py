"""Which rows of the packed (N, D) matrix belong to which modality, and which of them attend to each other.

The rows are ordered

    [ image-only | pair images | captions | texts ]

so that each expert works on one contiguous slice, which costs neither a gather nor a copy:

    vision            image-only + pair images
    language          captions + texts
    vision-language   pair images + captions   (top blocks; vision and language keep the rest)

It is the only order in which all three slices are contiguous. Its price is paid by attention, which needs the image and
the caption of a pair side by side: it reorders the rows of pairs (`pair_order`), of q, k and v alone.

Padding has no rows: a caption or text takes as many as it has tokens. Their lengths should be known to the host, which
needs them for the sizes of tensors; otherwise it must wait for the device in every step.

Shapes: I image-only samples, P pairs, T texts; V tokens per image; R rows of words (captions and texts); B texts of up
to S tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.expert_rows import ExpertRows

SHARED = ("shared",)
TWO_EXPERTS = ("vision", "language")
THREE_EXPERTS = ("vision", "vision_language", "language")
GROUP_EXPERTS = {
    SHARED: ("shared", "shared", "shared", "shared"),
    TWO_EXPERTS: ("vision", "vision", "language", "language"),
    THREE_EXPERTS: ("vision", "vision_language", "vision_language", "language"),
}
"""The expert of each group of rows (image-only, pair images, captions, texts), by the experts of a module."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Consecutive sequences of rows, each of which attends to itself alone."""

    lengths: tuple[int, ...]
    """Number of rows of each sequence, on the host."""
    cu_seqlens: Tensor
    """(sequences + 1,) int32 cumulative lengths on the device, from 0, as variable-length attention takes them."""

    @property
    def num_rows(self) -> int:
        return sum(self.lengths)

    @property
    def have_equal_lengths(self) -> bool:
        return len(set(self.lengths)) <= 1

    @property
    def max_seqlen(self) -> int:
        return max(self.lengths, default=0)


@dataclass(frozen=True, eq=False)
class UnpaddedTexts(Sequences):
    """The tokens of a padded (B, S) matrix without their padding, which follows each text."""

    samples: Tensor
    """(R,) int64, the text of each token."""
    positions: Tensor
    """(R,) int64, the position of each token in its text."""

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, S, ...) -> (R, ...)"""
        return padded.flatten(0, 1).index_select(0, self._flat_indices(padded.shape[1]))

    def pad(self, values: Tensor, num_positions: int) -> Tensor:
        """(R, ...) -> (B, S, ...), S = num_positions, zero at padding."""
        num_samples = len(self.lengths)
        # without padding the rows are in order already, and a view is enough
        if len(values) < num_samples * num_positions:
            padded = values.new_zeros(num_samples * num_positions, *values.shape[1:])
            values = padded.index_copy_(0, self._flat_indices(num_positions), values)
        return values.view(num_samples, num_positions, *values.shape[1:])

    def _flat_indices(self, num_positions: int) -> Tensor:
        return self.samples * num_positions + self.positions


def unpadded_texts(padding: Tensor, lengths: tuple[int, ...] | None) -> UnpaddedTexts:
    """Return where the tokens of padded texts are.

    padding: (B, S) bool, True = padding; lengths: number of tokens of each text; None reads them from the device, which
    makes the host wait.
    """
    counts = (~padding).sum(1)
    if lengths is None:
        lengths = tuple(counts.tolist())
    cu_seqlens = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    # output_size: without it repeat_interleave reads the sum of the counts from the device
    samples = torch.repeat_interleave(counts, output_size=sum(lengths))
    positions = torch.arange(len(samples), device=samples.device) - cu_seqlens[samples]
    return UnpaddedTexts(lengths, cu_seqlens.int(), samples, positions)


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """An immutable description of a packed step; an argument of every multiway module, never its state."""

    image_tokens: int
    """Number of tokens of an image."""
    images: Sequences
    """The image-only samples."""
    captions: UnpaddedTexts
    texts: UnpaddedTexts
    pairs: Sequences
    """The pairs, each one's image followed by its caption."""
    pair_order: Tensor
    """(P * V + caption rows,) int64, the packed row of pairs at each row of `pairs`."""
    inverse_pair_order: Tensor
    """The inverse permutation: the row of `pairs` of each packed row."""
    pair_mask: Tensor | None = None
    """(queries, keys) bool for the longest pair, True where a query may see a key; see `model.attention.attend`. None:
    a token sees all of its pair."""

    @property
    def num_images(self) -> int:
        """Number of image-only samples."""
        return len(self.images.lengths)

    @property
    def num_pairs(self) -> int:
        return len(self.captions.lengths)

    @property
    def num_rows(self) -> int:
        return sum(self.kind_rows)

    @property
    def kind_rows(self) -> list[int]:
        """Number of rows of images, pairs and texts."""
        return [self.images.num_rows, self.pairs.num_rows, self.texts.num_rows]

    def rows(self, experts: tuple[str, ...]) -> ExpertRows:
        """Return the rows of each of a module's experts: SHARED, TWO_EXPERTS or THREE_EXPERTS."""
        images = self.images.num_rows
        ends = (images, images + self.num_pairs * self.image_tokens, images + self.pairs.num_rows, self.num_rows)
        return ExpertRows(ends, tuple(experts.index(name) for name in GROUP_EXPERTS[experts]))

    def sample_of_row(self) -> Tensor:
        """Return the sample of each row, (N,): images 0..I-1, pairs I..I+P-1 (both parts of a pair), then texts."""
        num_all_images = self.num_images + self.num_pairs
        images = torch.arange(num_all_images, device=self.pair_order.device).repeat_interleave(self.image_tokens)
        return torch.cat([images, self.captions.samples + self.num_images, self.texts.samples + num_all_images])

    def word_positions(self) -> tuple[Tensor, Tensor]:
        """Return each word's position in its caption or text, (R,) int64, and the cumulative lengths of captions and
        texts, (P + T + 1,) int32."""
        cu_seqlens = torch.cat([self.captions.cu_seqlens, self.texts.cu_seqlens[1:] + self.captions.num_rows])
        return torch.cat([self.captions.positions, self.texts.positions]), cu_seqlens


def packed_layout(
    num_images: int,
    image_tokens: int,
    captions: UnpaddedTexts,
    texts: UnpaddedTexts,
    pair_mask: Tensor | None = None,
) -> PackedLayout:
    """Return the layout of `num_images` image-only samples, one pair per caption, and the texts."""
    device = captions.cu_seqlens.device
    num_pairs = len(captions.lengths)
    # rows of pairs lie as [all images | all captions]; attention wants [image 0, caption 0, image 1, caption 1, ...]
    pair_starts = captions.cu_seqlens + image_tokens * torch.arange(num_pairs + 1, device=device)
    image_places = pair_starts[:-1, None] + torch.arange(image_tokens, device=device)  # (P, V)
    caption_places = pair_starts[captions.samples] + image_tokens + captions.positions
    inverse_order = torch.cat([image_places.flatten(), caption_places])
    # a permutation is inverted by writing each row's number to its place, which needs no sort
    row_numbers = torch.arange(len(inverse_order), device=device)
    order = torch.empty_like(inverse_order).scatter_(0, inverse_order, row_numbers)
    image_starts = image_tokens * torch.arange(num_images + 1, dtype=torch.int32, device=device)
    images = Sequences((image_tokens,) * num_images, image_starts)
    pairs = Sequences(tuple(image_tokens + length for length in captions.lengths), pair_starts.int())
    return PackedLayout(image_tokens, images, captions, texts, pairs, order, inverse_order, pair_mask)
