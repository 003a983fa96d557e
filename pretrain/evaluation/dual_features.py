"""Features of many images and texts by a dual encoder, chunk after chunk, the same on any number of ranks.

Equal texts are encoded once. Beside the time, this makes their features equal to the bit: the same text in another
chunk would get other roundings, and which of two equal captions comes first would be chance.

Shapes: n images or texts, D dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from data_pipeline.loading.dataset import encoded
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID, TextTokenizer
from model.dual_encoder import DualOutputs
from model.multiway import MultiwayInputs
from pretrain.evaluation.chunks import Name, Ranks
from pretrain.evaluation.evaluation import Network
from pretrain.evaluation.held_out import image_inputs


class ImageSource(Protocol):
    """Images by place."""

    def images(self, places: range) -> tuple[Tensor, Tensor]:
        """Return images, (B, 3, S, S) uint8, and which of them could be read, (B,) float32, 1 or 0."""


class Features(NamedTuple):
    """Features of images or texts, on the host."""

    rows: Tensor
    """(n, D) float32."""
    is_good: Tensor
    """(n,) bool: false for images that could not be read, and for texts without a token."""
    logit_scale: Tensor
    """(), the natural logarithm of the factor of similarities."""
    logit_bias: Tensor
    """(), NaN if the network has none."""


@dataclass(frozen=True)
class FeatureSettings:
    """How images and texts become inputs of a dual encoder."""

    image_size: int
    """Side of the images in pixels."""
    patch_size: int
    tokenizer: TextTokenizer
    text_length: int
    """Number of ids of a text; longer ones are cut."""
    chunk_size: int
    """Number of images or texts per forward."""
    dtype: torch.dtype
    device: torch.device
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divides them after that."""

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def pixels(self, images: Tensor) -> Tensor:
        """Return the network's pixels of images, (B, 3, S, S) uint8."""
        mean, std = (torch.tensor(part, device=images.device).view(3, 1, 1) for part in (self.mean, self.std))
        return ((images.float() / 255 - mean) / std).to(self.dtype)


@dataclass(frozen=True)
class FeatureReader:
    """Computes features with a dual encoder or an engine around one. All ranks call every method in the same order."""

    network: Network
    settings: FeatureSettings
    ranks: Ranks

    def of_images(self, source: ImageSource, num_images: int, name: Name = "image {}".format) -> Features:
        """Return the features of the first images of a source, which are of the right size. Raises Interrupted,
        NotFiniteError with the names of images."""

        def compute(places: range) -> Tensor:
            images, is_good = source.images(places)
            pixels = self.settings.pixels(images.to(self.settings.device))
            nothing_hidden = torch.zeros(len(pixels), self.settings.num_patches, dtype=torch.bool)
            outputs = self._outputs(image_inputs(pixels, nothing_hidden))
            return _columns(outputs, outputs.images, is_good.to(self.settings.device))

        return self._by_place(num_images, compute, name)

    def of_texts(self, texts: Sequence[str]) -> Features:
        """Return the features of texts. Raises Interrupted, NotFiniteError."""
        number: dict[tuple[int, ...], int] = {}
        places = torch.tensor([number.setdefault(self._ids(text), len(number)) for text in texts])
        first = places.tolist().index
        ids = torch.tensor(list(number))  # (distinct texts, text_length)
        is_good = (ids[:, 1] != EOS_ID).float()

        def compute(places: range) -> Tensor:
            outputs = self._outputs(text_inputs(ids[places.start : places.stop], self.settings))
            return _columns(outputs, outputs.texts, is_good[places.start : places.stop].to(self.settings.device))

        found = self._by_place(len(ids), compute, lambda place: f"text {texts[first(place)]!r:.60}")
        return found._replace(rows=found.rows[places], is_good=found.is_good[places])

    def _ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, none between <s> and </s> if the tokenizer finds no token in it."""
        length = self.settings.text_length
        try:
            return tuple(encoded(self.settings.tokenizer, text, length))
        except BadSampleError:
            return BOS_ID, EOS_ID, *[PAD_ID] * (length - 2)

    @torch.no_grad()
    def _outputs(self, inputs: MultiwayInputs) -> DualOutputs:
        outputs = self.network(inputs)
        assert isinstance(outputs, DualOutputs)
        return outputs

    def _by_place(self, num_places: int, compute: "Compute", name: Name) -> Features:
        rows = self.ranks.by_place(num_places, self.settings.chunk_size, compute, self.settings.device, name)
        scale, bias, has_bias = rows[0, -3:]
        return Features(rows[:, :-4], rows[:, -4] > 0, scale, bias if has_bias else torch.tensor(torch.nan))


class Compute(Protocol):
    """Returns a row per place."""

    def __call__(self, places: range, /) -> Tensor: ...


def text_inputs(ids: Tensor, settings: FeatureSettings) -> MultiwayInputs:
    """Return the network's inputs for texts alone. ids: (T, L), on the host, filled up with PAD_ID."""
    size, device, padding = settings.image_size, settings.device, ids == PAD_ID
    no_captions = torch.zeros(0, 1, dtype=torch.int64, device=device)
    return MultiwayInputs(
        images=torch.zeros(0, 3, size, size, dtype=settings.dtype, device=device),
        image_mask=torch.zeros(0, settings.num_patches, dtype=torch.bool, device=device),
        caption_ids=no_captions,
        caption_padding=no_captions.bool(),
        text_ids=ids.to(device),
        text_padding=padding.to(device),
        caption_lengths=(),
        text_lengths=tuple((~padding).sum(1).tolist()),
    )


def _columns(outputs: DualOutputs, features: Tensor, is_good: Tensor) -> Tensor:
    """Return the rows of a chunk: features, whether they count, and the network's scale, its bias, and whether it has
    one."""
    bias, has_bias = outputs.logit_bias, outputs.logit_scale.new_tensor(outputs.logit_bias is not None)
    parameters = torch.stack([outputs.logit_scale, torch.zeros_like(has_bias) if bias is None else bias, has_bias])
    parameters = parameters.expand(len(features), 3)
    return torch.cat([features.float(), is_good[:, None], parameters.float()], 1)
