"""The loader: a map from step to this rank's part of the global batch.

    for batch in step_batches(StepDataset(...), first_step, last_step, num_workers): ...

Resuming is starting the range elsewhere; there is no iterator state. The global batch of a step is ordered
[ images | pairs | texts ], and rank r of W takes the r-th of W equal parts of each kind. A sample's id, which keys
augmentation and masks, is its place in the run: step * samples per global batch + place in the global batch.

Shapes: I images, P pairs, T texts of this rank; S image side, C caption length, L text length.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.config import DataConfig, SamplesPerStep, parse_source
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.order import SampleOrder
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader, ShardMismatchError
from data_pipeline.texts.token_coverage import covered_share
from data_pipeline.texts.tokenizer import EOS_ID, NO_TOKEN, PAD_ID, TextTokenizer

MAX_NEIGHBORS = 100
LONGEST_PIECE = 64
"""Characters of a text that are looked at for each token it may have: pieces are shorter."""


class RottenShardError(Exception):
    """Too many bad samples in a row."""


T = TypeVar("T")


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
        ranks_per_node: int = 1,
    ):
        """image_size: side of the images in pixels, the larger of the network's and the tokenizer's view.
        ranks_per_node: how many share the cache of remote shards.

        Raises ValueError for missing or damaged shards and for batch sizes that ranks or lanes do not divide.
        """
        self.samples_per_step = samples_per_step
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.caption_length, self.text_length = config.caption_length, config.text_length
        if config.text_tokenizer is None and samples_per_step.pairs + samples_per_step.texts:
            raise ValueError("captions and texts need data.text_tokenizer; give a SentencePiece model")
        self.tokenizer = TextTokenizer(config.text_tokenizer) if config.text_tokenizer is not None else None
        """None where there are only images."""
        self.transform = ImageTransform(
            image_size, config.min_crop_scale, config.color_jitter, config.horizontal_flip, config.max_image_pixels
        )
        self.kinds: dict[Kind, _KindOfData] = {}
        kinds: list[tuple[Kind, tuple[str, ...], int]] = [
            ("image", config.images, samples_per_step.images),
            ("pair", config.pairs, samples_per_step.pairs),
            ("text", config.texts, samples_per_step.texts),
        ]
        for number, (kind, sources, per_step) in enumerate(kinds):
            if per_step % world_size:
                raise ValueError(
                    f"{per_step} {kind}s per step must be a multiple of the {world_size} ranks; change one"
                )
            if per_step:
                self.kinds[kind] = _open_kind(kind, sources, config, per_step, seed + number, check_shards=rank == 0)
        self._check_cache(config, ranks_per_node)
        self.now_reading: Callable[[int, Kind, int, int], None] | None = None
        """Told step, kind, source and sample before each is read, so that a dead worker's last one is known."""
        self.done_reading: Callable[[], None] | None = None
        """Told when a batch is read."""

    def _check_cache(self, config: DataConfig, ranks_per_node: int) -> None:
        """Raises ValueError where the cache cannot hold what is read at once: it would fetch shards over and over."""
        num_lanes = min(config.num_lanes, ranks_per_node * -(-config.num_lanes // self.world_size))
        needed = 0
        for reader in (reader for data in self.kinds.values() for reader in data.readers):
            if is_remote(reader.index.folder):
                sizes = [shard.num_bytes for shard in reader.index.shards]
                needed += min(sum(sizes), 2 * config.window_shards * num_lanes * max(sizes))
        if needed > config.cache_bytes:
            raise ValueError(
                f"two windows of {config.window_shards} shards in each of {num_lanes} lanes of a node take {needed} "
                f"bytes, more than data.cache_bytes {config.cache_bytes}; raise it, or lower data.window_shards"
            )

    @property
    def fingerprints(self) -> dict[str, str]:
        """What data this is: of each kind, the index fingerprints and weights of its sources."""
        return {kind: data.fingerprint for kind, data in self.kinds.items()}

    def describe(self) -> list[str]:
        """A line per kind: its sources, their samples and shares; and what the text tokenizer does not know of them."""
        lines = []
        for kind, data in self.kinds.items():
            sizes = [reader.index.num_samples for reader in data.readers]
            parts = zip(data.names, sizes, data.mixture.shares, strict=True)
            lines.append(f"{kind}: " + ", ".join(f"{name} {size} samples {share:.0%}" for name, size, share in parts))
            if kind != "image":
                lines += self._coverage_lines(data)
        return lines

    def _coverage_lines(self, data: "_KindOfData") -> list[str]:
        assert self.tokenizer is not None
        lines = []
        for name, reader in zip(data.names, data.readers, strict=True):
            share = covered_share(reader, self.tokenizer)
            lines.append(f"warning: {name}: {share.warning}" if share.warning else f"  {name}: {share}")
        return lines

    def warnings(self) -> list[str]:
        """A line per source of which a step takes more samples than it holds."""
        return [
            f"a step takes {data.per_step * share:.0f} {kind}s of {name}, which holds {reader.index.num_samples}: a "
            f"batch repeats samples; lower {kind}s_per_step, or add {kind}s"
            for kind, data in self.kinds.items()
            for name, reader, share in zip(data.names, data.readers, data.mixture.shares, strict=True)
            if data.per_step * share > reader.index.num_samples
        ]

    def seen(self, step: int) -> dict[str, dict[str, float]]:
        """Of each source of each kind: passes over it before `step`, over all ranks."""
        return {
            kind: {
                name: round(seen / reader.index.num_samples, 4)
                for name, reader, seen in zip(data.names, data.readers, data.mixture.seen(step), strict=True)
            }
            for kind, data in self.kinds.items()
        }

    def name(self, kind: Kind, source: int, sample: int) -> str:
        """Shard and key."""
        reader = self.kinds[kind].readers[source]
        return f"{reader.shard_name(sample)}:{reader.key(sample)}"

    def __getitem__(self, step: int) -> StepBatch:
        """Where no good sample is in reach, `failure` of the batch says so, for all ranks to agree on."""
        bad: list[BadSample] = []
        try:
            return self._batch(step, bad)
        except (RottenShardError, ShardMismatchError, OSError) as error:
            return self.failed(step, str(error), bad)
        except Exception:  # also a fault of ours must not end one rank alone
            return self.failed(step, traceback.format_exc(), bad)
        finally:
            if self.done_reading is not None:
                self.done_reading()

    def _batch(self, step: int, bad: list[BadSample]) -> StepBatch:
        keys: list[str] = []
        per_step = self.samples_per_step
        first = step * per_step.total
        images, image_ids = self._read("image", step, first, self._image, keys, bad)
        pairs, pair_ids = self._read("pair", step, first + per_step.images, self._pair, keys, bad)
        texts, text_ids = self._read("text", step, first + per_step.images + per_step.pairs, self._text, keys, bad)
        pixels = [*images, *(image for image, _ in pairs)]
        size = self.transform.size
        caption_ids = torch.tensor([ids for _, ids in pairs], dtype=torch.int64).view(-1, self.caption_length)
        passage_ids = torch.tensor(texts, dtype=torch.int64).view(-1, self.text_length)
        return StepBatch(
            step=step,
            images=torch.from_numpy(np.stack(pixels) if pixels else np.empty((0, 3, size, size), np.uint8)),
            image_sample_ids=torch.tensor(image_ids + pair_ids, dtype=torch.int64),
            caption_ids=caption_ids,
            text_ids=passage_ids,
            text_sample_ids=torch.tensor(text_ids, dtype=torch.int64),
            caption_lengths=num_tokens(caption_ids),
            text_lengths=num_tokens(passage_ids),
            keys=keys,
            bad_samples=bad,
        )

    def failed(self, step: int, failure: str, bad: list[BadSample]) -> StepBatch:
        """An empty batch that says why it is."""
        nothing = torch.zeros(0, dtype=torch.int64)
        captions, texts = nothing.view(0, self.caption_length), nothing.view(0, self.text_length)
        images = torch.zeros(0, 3, self.transform.size, self.transform.size, dtype=torch.uint8)
        return StepBatch(step, images, nothing, captions, texts, nothing, (), (), [], bad, failure)

    def _read(
        self,
        kind: Kind,
        step: int,
        first_id: int,
        make: Callable[[SampleReader, int, int], T],
        keys: list[str],
        bad: list[BadSample],
    ) -> tuple[list[T], list[int]]:
        """This rank's samples of a kind and their ids. Bad ones are replaced by the next good one of their shard."""
        if kind not in self.kinds:
            return [], []
        data = self.kinds[kind]
        part = data.per_step // self.world_size
        made, sample_ids = [], []
        for place in range(self.rank * part, (self.rank + 1) * part):
            source, sample = data.sample(step, place)
            reader = data.readers[source]
            for _ in range(min(MAX_NEIGHBORS, reader.shard_size(sample))):
                if self.now_reading is not None:
                    self.now_reading(step, kind, source, sample)
                try:
                    made.append(make(reader, sample, first_id + place))
                    break
                except BadSampleError as error:
                    bad.append(BadSample(reader.shard_name(sample), reader.key(sample), str(error)))
                    sample = reader.neighbor(sample)
            else:
                raise RottenShardError(f"a shard without a good sample in reach; the last: {bad[-1]}")
            sample_ids.append(first_id + place)
            keys.append(reader.key(sample))
        return made, sample_ids

    def _image(self, reader: SampleReader, sample: int, sample_id: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, sample_id]))
        return self.transform(reader.image_bytes(sample), rng)

    def _pair(self, reader: SampleReader, sample: int, sample_id: int) -> tuple[np.ndarray, list[int]]:
        return self._image(reader, sample, sample_id), self._ids(reader, sample, self.caption_length)

    def _text(self, reader: SampleReader, sample: int, sample_id: int) -> list[int]:
        return self._ids(reader, sample, self.text_length)

    def _ids(self, reader: SampleReader, sample: int, length: int) -> list[int]:
        assert self.tokenizer is not None
        ids = self.tokenizer.encode_to_length(reader.text(sample)[: length * LONGEST_PIECE], length)
        if ids[1] == EOS_ID:
            raise BadSampleError(NO_TOKEN)
        return ids


def num_tokens(ids: Tensor) -> tuple[int, ...]:
    """Of each of (B, S) texts, without padding."""
    return tuple((ids != PAD_ID).sum(1).tolist())


@dataclass(frozen=True)
class _KindOfData:
    """The sources of a kind: their bytes, their orders, and how they are mixed."""

    names: list[str]
    readers: list[SampleReader]
    orders: list[SampleOrder]
    mixture: Mixture
    per_step: int
    fingerprint: str
    windows: dict[tuple[int, int], tuple[int, int]]
    """Of each source and lane, the window that was read last."""

    def sample(self, step: int, place: int) -> tuple[int, int]:
        """Source, and number of the sample in its index."""
        draw = self.mixture.draw(step, place)
        order = self.orders[draw.source]
        window = order.window(draw.lane, draw.position)
        if self.windows.get((draw.source, draw.lane)) != window:
            self.windows[draw.source, draw.lane] = window
            self.readers[draw.source].look_ahead(order.shards_after(draw.lane, draw.position))
        return draw.source, order.sample(draw.lane, draw.position)


def _open_kind(
    kind: Kind, sources: tuple[str, ...], config: DataConfig, per_step: int, seed: int, check_shards: bool
) -> _KindOfData:
    """Raises ValueError for a source of another kind, and where the lanes do not fit."""
    if not sources:
        raise ValueError(f"{per_step} {kind}s per step need a source; set data.{kind}s")
    if per_step % config.num_lanes:
        raise ValueError(
            f"{per_step} {kind}s per step must be a multiple of data.num_lanes {config.num_lanes}; change one"
        )
    names, readers, orders, weights = [], [], [], []
    cache = ShardCache(config.cache_folder, config.cache_bytes, config.cache_for_group)
    for entry in sources:
        folder, weight = parse_source(entry)
        shown = public_url(folder)
        index = read_index(folder, cache, check_shards)
        if index.kind != kind:
            raise ValueError(f"{shown} holds shards of kind {index.kind!r}, not {kind!r}; give the right folder")
        if index.text_length > config.text_length:
            raise ValueError(
                f"{shown} holds passages of up to {index.text_length} ids, of which data.text_length "
                f"{config.text_length} would cut the rest; raise it, or write shards with --text-length "
                f"{config.text_length}"
            )
        names.append(shown)
        weights.append(weight)
        readers.append(SampleReader(index, config.max_member_bytes, cache))
        sizes = [shard.num_samples for shard in index.shards]
        orders.append(_order(kind, folder, sizes, config, seed))
    sizes = [reader.index.num_samples for reader in readers]
    mixture = Mixture(sizes, weights, per_step, config.num_lanes, seed)
    parts = [f"{reader.index.fingerprint}={weight}" for reader, weight in zip(readers, weights, strict=True)]
    return _KindOfData(names, readers, orders, mixture, per_step, " ".join(parts), {})


def _order(kind: Kind, folder: str, shard_sizes: list[int], config: DataConfig, seed: int) -> SampleOrder:
    """Raises ValueError if a source has fewer samples than there are lanes."""
    if sum(shard_sizes) < config.num_lanes:
        raise ValueError(
            f"{public_url(folder)} holds {sum(shard_sizes)} {kind}s, fewer than data.num_lanes {config.num_lanes}; "
            f"lower it, or add {kind}s"
        )
    return SampleOrder(shard_sizes, config.num_lanes, config.window_shards, seed)
