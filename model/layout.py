"""Which rows of the packed (N, D) matrix belong to which modality, and which of them attend to each other.

The rows are ordered

    [ image-only | pair images | captions | texts ]

so that each expert works on one contiguous slice:

    vision            image-only + pair images
    language          captions + texts
    vision-language   pair images + captions   (top blocks; vision and language keep the rest)

Padding has no rows: a caption or text takes as many as it has tokens. How many the host must know, or it waits for
the device; everything else is computed there.

Shapes: I image-only samples, P pairs, T texts; V tokens an image; R rows of words (captions and texts); B texts of up
to S tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.expert_rows import ExpertRows

SHARED = ("shared",)
TWO_EXPERTS = ("vision", "language")
THREE_EXPERTS = ("vision", "vision_language", "language")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Rows one after another, each of which attends to those of its own sequence."""

    lengths: tuple[int, ...]
    """Rows of each sequence, on the host."""
    begins: Tensor
    """(sequences + 1,) int32, the row at which each begins and the last one ends."""

    @property
    def num_rows(self) -> int:
        return sum(self.lengths)

    @property
    def are_even(self) -> bool:
        """Whether all are equally long."""
        return len(set(self.lengths)) <= 1

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)


@dataclass(frozen=True, eq=False)
class Tokens(Sequences):
    """Texts without their padding, of a padded (B, S) matrix in which it stands behind them."""

    samples: Tensor
    """(R,) int64 the text of each token."""
    positions: Tensor
    """(R,) int64 its place in that."""

    def take(self, padded: Tensor) -> Tensor:
        """(B, S, ...) -> (R, ...)"""
        return padded.flatten(0, 1).index_select(0, self._flat(padded.shape[1]))

    def put(self, values: Tensor, num_positions: int) -> Tensor:
        """(R, ...) -> (B, S, ...), S = num_positions, zero at padding."""
        num_samples = len(self.lengths)
        if len(values) < num_samples * num_positions:
            padded = values.new_zeros(num_samples * num_positions, *values.shape[1:])
            values = padded.index_copy_(0, self._flat(num_positions), values)
        return values.view(num_samples, num_positions, *values.shape[1:])

    def _flat(self, num_positions: int) -> Tensor:
        return self.samples * num_positions + self.positions


def tokens_of(padding: Tensor, lengths: tuple[int, ...] | None) -> Tokens:
    """padding: (B, S) bool, True = padding; lengths: (B) how many of each text are none, None: look and wait."""
    counts = (~padding).sum(1)
    if lengths is None:
        lengths = tuple(counts.tolist())
    begins = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    samples = torch.repeat_interleave(counts, output_size=sum(lengths))
    positions = torch.arange(len(samples), device=samples.device) - begins[samples]
    return Tokens(lengths, begins.int(), samples, positions)


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """An immutable description of a packed step; an argument of every multiway module, never its state."""

    image_tokens: int
    """Of each image."""
    images: Sequences
    """The image-only ones."""
    captions: Tokens
    texts: Tokens
    pairs: Sequences
    """The images and captions of pairs, pair after pair."""
    pair_order: Tensor
    """(P * V + caption rows,) int64: which of the packed rows of pairs stands where in `pairs`."""
    pair_places: Tensor
    """The inverse: where in `pairs` each packed row stands."""
    pair_mask: Tensor | None = None
    """(queries, keys) bool of the longest pair, True where a query may see a key; see `model.attention.attend`. None:
    all is visible."""

    @property
    def num_images(self) -> int:
        """Image-only samples."""
        return len(self.images.lengths)

    @property
    def num_pairs(self) -> int:
        return len(self.captions.lengths)

    @property
    def num_rows(self) -> int:
        return self.images.num_rows + self.pairs.num_rows + self.texts.num_rows

    def rows(self, num_experts: int) -> ExpertRows:
        """Which of so many experts each of the four groups belongs to: SHARED, TWO_EXPERTS or THREE_EXPERTS."""
        images = self.images.num_rows
        ends = (images, images + self.num_pairs * self.image_tokens, images + self.pairs.num_rows, self.num_rows)
        experts = {1: (0, 0, 0, 0), 2: (0, 0, 1, 1), 3: (0, 1, 1, 2)}[num_experts]
        return ExpertRows(ends, experts)

    def sample_of_row(self) -> Tensor:
        """(N,) the sample of each row: images 0..I-1, pairs I..I+P-1 (both of a pair's parts), then texts."""
        num_all_images = self.num_images + self.num_pairs
        images = torch.arange(num_all_images, device=self.pair_order.device).repeat_interleave(self.image_tokens)
        return torch.cat([images, self.captions.samples + self.num_images, self.texts.samples + num_all_images])

    def words(self) -> tuple[Tensor, Tensor]:
        """Of captions and texts: the position of each word in its text, (R,) int64, and the word at which each text
        begins and the last one ends, (P + T + 1,) int32."""
        begins = torch.cat([self.captions.begins, self.texts.begins[1:] + self.captions.num_rows])
        return torch.cat([self.captions.positions, self.texts.positions]), begins


def pack(
    num_images: int, image_tokens: int, captions: Tokens, texts: Tokens, pair_mask: Tensor | None = None
) -> PackedLayout:
    """The layout of so many image-only samples, a pair for each of `captions`, and `texts`."""
    device = captions.begins.device
    num_pairs = len(captions.lengths)
    begins = captions.begins + image_tokens * torch.arange(num_pairs + 1, device=device)  # of pairs
    image_places = begins[:-1, None] + torch.arange(image_tokens, device=device)  # (P, V)
    caption_places = begins[captions.samples] + image_tokens + captions.positions
    places = torch.cat([image_places.flatten(), caption_places])
    order = torch.empty_like(places).scatter_(0, places, torch.arange(len(places), device=device))
    image_begins = image_tokens * torch.arange(num_images + 1, dtype=torch.int32, device=device)
    images = Sequences((image_tokens,) * num_images, image_begins)
    pairs = Sequences(tuple(image_tokens + length for length in captions.lengths), begins.int())
    return PackedLayout(image_tokens, images, captions, texts, pairs, order, places, pair_mask)
