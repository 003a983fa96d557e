"""Held-out samples by their place in a folder of shards, without augmentation, read once by the ranks that need them.

A sample that cannot be read keeps its place and weighs nothing, so that the places of the others, and with them masks
and wrong images, do not depend on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data_pipeline.files.remote_files import public_url
from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.batch import LoadedSample
from data_pipeline.loading.config import DataConfig
from data_pipeline.loading.dataset import encoded
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import UNREADABLE, SampleReader
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID, TextTokenizer
from pretrain.survival.console import warn


@dataclass
class HeldOut:
    """The first samples of a folder of held-out shards."""

    folder: str
    """Path or URL, without passwords."""
    reader: SampleReader
    kind: Kind
    """As which kind the samples are used: the images of pairs may be used alone."""
    num_samples: int
    image_size: int
    """Side of the images in pixels, the larger of the network's and the visual tokenizer's view."""
    max_image_pixels: int
    tokenizer: TextTokenizer | None
    """None for images."""
    length: int
    """Number of tokens of a caption or text."""
    _read: dict[int, LoadedSample | None] = field(default_factory=dict)

    def sample(self, place: int) -> tuple[LoadedSample, bool]:
        """Return a sample, with its place as its id, and whether it could be read; if not, a blank one."""
        if place not in self._read:
            try:
                self._read[place] = self._load(place)
            except UNREADABLE as error:  # on one rank alone: the others go on
                warn(f"skipped {BadSample(self.reader.shard_name(place), self.reader.key(place), str(error))}")
                self._read[place] = None
        found = self._read[place]
        return (self._blank(place), False) if found is None else (found, True)

    def name(self, place: int) -> str:
        """Return the place of a sample in its shards, for messages."""
        return f"{self.reader.shard_name(place)}:{self.reader.key(place)}"

    def texts(self) -> list[str]:
        """Return the text of every sample, "" for those that cannot be read. Cheap: images are not decoded."""
        return [self._text(place) for place in range(self.num_samples)]

    def images(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images, (B, 3, S, S) uint8, and which of them could be read, (B,) float32, 1 or 0."""
        samples = [self.sample(place) for place in places]
        pixels = np.stack([sample.pixels for sample, _ in samples if sample.pixels is not None])
        return torch.from_numpy(pixels), torch.tensor([is_good for _, is_good in samples]).float()

    def _load(self, place: int) -> LoadedSample:
        pixels = ids = None
        if self.kind != "text":
            transform = ImageTransform(self.image_size, 1, 0, False, self.max_image_pixels)
            pixels = transform.center(self.reader.image_bytes(place))
        if self.kind != "image":
            assert self.tokenizer is not None
            ids = encoded(self.tokenizer, self.reader.text(place), self.length)
        return LoadedSample(self.kind, place, self.reader.key(place), pixels, ids)

    def _blank(self, place: int) -> LoadedSample:
        has_pixels, has_ids = self.kind != "text", self.kind != "image"
        pixels = np.zeros((3, self.image_size, self.image_size), np.uint8) if has_pixels else None
        ids = [BOS_ID, EOS_ID] + [PAD_ID] * (self.length - 2) if has_ids else None
        return LoadedSample(self.kind, place, self.reader.key(place), pixels, ids)

    def _text(self, place: int) -> str:
        try:
            return self.reader.text(place)
        except BadSampleError:
            return ""


def open_held_out(
    folder: str,
    setting: str,
    kind: Kind,
    max_samples: int,
    data: DataConfig,
    image_size: int,
    tokenizer: TextTokenizer | None,
    check_shards: bool,
) -> HeldOut:
    """Open a folder of held-out shards.

    setting: its name, for messages; check_shards: as `read_index` has it. Raises ValueError if the folder is missing,
    damaged, of another kind, or if none of its first samples can be read.
    """
    cache = ShardCache(data.cache_folder, data.cache_bytes, data.cache_for_group)
    try:
        index = read_index(folder, cache, check_shards)
    except ValueError as error:
        raise ValueError(f"{setting}: {error} ({WITHOUT})") from error
    accepted = ("image", "pair") if kind == "image" else (kind,)
    if index.kind not in accepted:
        words = " or ".join(map(repr, accepted))
        raise ValueError(f"{setting} {public_url(folder)} holds shards of kind {index.kind!r}, not {words}; {GIVE}")
    num_samples = min(max_samples, index.num_samples)
    length = data.text_length if kind == "text" else data.caption_length
    reader = SampleReader(index, data.max_member_bytes, cache)
    return HeldOut(public_url(folder), reader, kind, num_samples, image_size, data.max_image_pixels, tokenizer, length)


GIVE = "give the right folder"
WITHOUT = (
    "python -m data_pipeline.write_shards --split held_out writes it; a run goes without by --evaluation.every-steps 0"
)


def check_readable(held_out: HeldOut, setting: str, num_tried: int) -> None:
    """Raise ValueError if none of the first samples can be read."""
    if not any(held_out.sample(place)[1] for place in range(min(num_tried, held_out.num_samples))):
        raise ValueError(f"{setting} {held_out.folder}: none of its first {num_tried} samples can be read; {GIVE}")
