"""The loader: a map from step to this rank's part of the global batch.

    DataLoader(StepDataset(...), sampler=range(first_step, last_step), batch_size=None)

Resuming is starting the range elsewhere; there is no iterator state. The global batch of a step is ordered
[ images | pairs | texts ], and rank r of W takes the r-th of W equal parts of each kind. A sample's id, which keys
augmentation and masks, is its place in the run: step * samples per global batch + place in the global batch.

Shapes: I images, P pairs, T texts of this rank; S image side, C caption length, L text length.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_pipeline.config import DataConfig
from data_pipeline.image_transform import ImageTransform
from data_pipeline.sample_order import SampleOrder
from data_pipeline.sample_reader import SampleReader
from data_pipeline.samples import BadSampleError, Kind
from data_pipeline.shard_index import read_index
from data_pipeline.text_tokenizer import PAD_ID, TextTokenizer

MAX_NEIGHBORS = 100


class RottenShardError(Exception):
    """Too many bad samples in a row."""


T = TypeVar("T")


@dataclass(frozen=True)
class SamplesPerStep:
    """The global batch: samples of each kind in a step, over all ranks and micro-steps."""

    images: int
    pairs: int
    texts: int

    @property
    def total(self) -> int:
        return self.images + self.pairs + self.texts


@dataclass(eq=False)
class StepBatch:
    """This rank's part of the global batch of one step."""

    step: int
    images: Tensor
    """(I + P, 3, S, S) uint8, the image-only samples first."""
    image_sample_ids: Tensor
    """(I + P,) int64"""
    caption_ids: Tensor
    """(P, C) int64; the sample ids of captions are those of their images."""
    text_ids: Tensor
    """(T, L) int64"""
    text_sample_ids: Tensor
    """(T,) int64"""
    keys: list[str]
    """Sample keys, images, pairs, texts."""
    bad_samples: list[str]
    """What was skipped: shard, key and reason."""
    failure: str = ""
    """Why this batch could not be read and is empty."""

    @property
    def caption_padding(self) -> Tensor:
        """(P, C) bool, True = padding."""
        return self.caption_ids == PAD_ID

    @property
    def text_padding(self) -> Tensor:
        """(T, L) bool, True = padding."""
        return self.text_ids == PAD_ID

    def micro_batches(self, count: int) -> list["StepBatch"]:
        """`count` equal parts, each with its part of every kind. `count` must divide all of them."""

        def part(number: int, total: int) -> Tensor:
            assert total % count == 0
            return torch.arange(number * total // count, (number + 1) * total // count)

        num_pairs = len(self.caption_ids)
        num_images = len(self.images) - num_pairs
        parts = []
        for i in range(count):
            pairs, texts = part(i, num_pairs), part(i, len(self.text_ids))
            both = torch.cat([part(i, num_images), num_images + pairs])
            parts.append(
                replace(
                    self,
                    images=self.images[both],
                    image_sample_ids=self.image_sample_ids[both],
                    caption_ids=self.caption_ids[pairs],
                    text_ids=self.text_ids[texts],
                    text_sample_ids=self.text_sample_ids[texts],
                )
            )
        return parts

    def to(self, device: torch.device) -> "StepBatch":
        tensors = {name: value.to(device) for name, value in self.__dict__.items() if isinstance(value, Tensor)}
        return StepBatch(**{**self.__dict__, **tensors})


class StepDataset(Dataset[StepBatch]):
    """`dataset[step]` is this rank's part of global batch `step`."""

    def __init__(
        self,
        config: DataConfig,
        samples_per_step: SamplesPerStep,
        image_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        """image_size: side of the images in pixels, the larger of the network's and the tokenizer's view.

        Raises ValueError for missing or damaged shards and for batch sizes that ranks or lanes do not divide.
        """
        self.samples_per_step = samples_per_step
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.caption_length, self.text_length = config.caption_length, config.text_length
        self.tokenizer = TextTokenizer(config.text_tokenizer)
        self.transform = ImageTransform(
            image_size, config.min_crop_scale, config.color_jitter, config.horizontal_flip, config.max_image_pixels
        )
        self.sources: dict[Kind, _Source] = {}
        kinds: list[tuple[Kind, Path, int]] = [
            ("image", config.images, samples_per_step.images),
            ("pair", config.pairs, samples_per_step.pairs),
            ("text", config.texts, samples_per_step.texts),
        ]
        for number, (kind, folder, per_step) in enumerate(kinds):
            if per_step % world_size:
                raise ValueError(f"world size {world_size} must divide the {per_step} {kind}s a step; change one")
            if per_step:
                self.sources[kind] = _open_source(kind, folder, config, per_step, seed + number)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What data this is: the index fingerprint of each kind."""
        return {kind: source.reader.index.fingerprint for kind, source in self.sources.items()}

    def __getitem__(self, step: int) -> StepBatch:
        """Where no good sample is in reach, `failure` of the batch says so, for all ranks to agree on."""
        bad: list[str] = []
        keys: list[str] = []
        try:
            return self._batch(step, keys, bad)
        except (RottenShardError, OSError) as error:
            return self._failed(step, bad, str(error))

    def _batch(self, step: int, keys: list[str], bad: list[str]) -> StepBatch:
        per_step = self.samples_per_step
        first = step * per_step.total
        images, image_ids = self._read("image", step, first, self._image, keys, bad)
        pairs, pair_ids = self._read("pair", step, first + per_step.images, self._pair, keys, bad)
        texts, text_ids = self._read("text", step, first + per_step.images + per_step.pairs, self._text, keys, bad)
        pixels = [*images, *(image for image, _ in pairs)]
        size = self.transform.size
        return StepBatch(
            step=step,
            images=torch.from_numpy(np.stack(pixels) if pixels else np.empty((0, 3, size, size), np.uint8)),
            image_sample_ids=torch.tensor(image_ids + pair_ids, dtype=torch.int64),
            caption_ids=torch.tensor([ids for _, ids in pairs], dtype=torch.int64).view(-1, self.caption_length),
            text_ids=torch.tensor(texts, dtype=torch.int64).view(-1, self.text_length),
            text_sample_ids=torch.tensor(text_ids, dtype=torch.int64),
            keys=keys,
            bad_samples=bad,
        )

    def _failed(self, step: int, bad: list[str], failure: str) -> StepBatch:
        nothing = torch.zeros(0, dtype=torch.int64)
        captions, texts = nothing.view(0, self.caption_length), nothing.view(0, self.text_length)
        images = torch.zeros(0, 3, self.transform.size, self.transform.size, dtype=torch.uint8)
        return StepBatch(step, images, nothing, captions, texts, nothing, [], bad, failure)

    def _read(
        self,
        kind: Kind,
        step: int,
        first_id: int,
        make: Callable[["_Source", int, int], T],
        keys: list[str],
        bad: list[str],
    ) -> tuple[list[T], list[int]]:
        """This rank's samples of a kind and their ids. Bad ones are replaced by the next good one of their shard."""
        if kind not in self.sources:
            return [], []
        source = self.sources[kind]
        part = source.per_step // self.world_size
        made, sample_ids = [], []
        for place in range(self.rank * part, (self.rank + 1) * part):
            sample = source.order.sample(step, place)
            for _ in range(min(MAX_NEIGHBORS, source.reader.shard_size(sample))):
                try:
                    made.append(make(source, sample, first_id + place))
                    break
                except BadSampleError as error:
                    bad.append(f"{source.reader.name(sample)}: {error}")
                    sample = source.reader.neighbor(sample)
            else:
                raise RottenShardError(f"a shard without a good sample in reach; the last: {bad[-1]}")
            sample_ids.append(first_id + place)
            keys.append(source.reader.key(sample))
        return made, sample_ids

    def _image(self, source: "_Source", sample: int, sample_id: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, sample_id]))
        return self.transform(source.reader.image_bytes(sample), rng)

    def _pair(self, source: "_Source", sample: int, sample_id: int) -> tuple[np.ndarray, list[int]]:
        ids = self.tokenizer.encode_to_length(source.reader.text(sample), self.caption_length)
        return self._image(source, sample, sample_id), ids

    def _text(self, source: "_Source", sample: int, sample_id: int) -> list[int]:
        return self.tokenizer.encode_to_length(source.reader.text(sample), self.text_length)


@dataclass(frozen=True)
class _Source:
    """One kind of data: its bytes and its order."""

    reader: SampleReader
    order: SampleOrder
    per_step: int


def _open_source(kind: Kind, folder: Path, config: DataConfig, per_step: int, seed: int) -> _Source:
    index = read_index(folder)
    if index.kind != kind:
        raise ValueError(f"{folder} holds shards of kind {index.kind!r}, not {kind!r}; give the right folder")
    sizes = [shard.num_samples for shard in index.shards]
    order = SampleOrder(sizes, per_step, config.num_lanes, config.window_shards, seed)
    return _Source(SampleReader(index, config.max_member_bytes), order, per_step)
