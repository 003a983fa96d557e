"""The loader's dataset: a map from step to this rank's part of the global batch.

    for batch in step_batches(StepDataset(...), first_step, last_step, num_workers): ...

A batch is a function of the step, the seed and the data alone. So a run resumes by starting the range elsewhere, on any
number of ranks and workers: there is no iterator state to save, and nothing to replay.

The global batch of a step is ordered [ images | pairs | texts ], and rank r of W takes the r-th of W equal parts of
each kind. A sample's id, which keys its augmentation and masks, is its place in the run:
step * samples per global batch + place in the global batch.
"""

import traceback
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Dataset

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.batch import BatchShape, LoadedSample, StepBatch, collate
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.kind_sources import KindSources, Source, check_cache_size, open_sources
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.shards.reader import SampleReader, ShardMismatchError
from data_pipeline.texts.token_coverage import covered_share
from data_pipeline.texts.tokenizer import EOS_ID, NO_TOKEN, TextTokenizer

MAX_NEIGHBORS = 100
"""Samples that are tried for one place of a batch."""
LONGEST_PIECE = 64
"""Characters of a text that are encoded for each token that fits: pieces are shorter, and a book takes seconds."""


class RottenShardError(Exception):
    """Too many bad samples in a row."""


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
        """image_size: side of the images in pixels, the larger of the network's and the visual tokenizer's view.
        ranks_per_node: the number of ranks that share the cache of remote shards.

        Raises ValueError for missing or damaged shards and for batch sizes that ranks or lanes do not divide.
        """
        self.samples_per_step = samples_per_step
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.shape = BatchShape(image_size, config.caption_length, config.text_length)
        if config.text_tokenizer is None and samples_per_step.pairs + samples_per_step.texts:
            raise ValueError("captions and texts need data.text_tokenizer; give a SentencePiece model")
        self.tokenizer = TextTokenizer(config.text_tokenizer) if config.text_tokenizer is not None else None
        """None if there are only images."""
        self.transform = ImageTransform(
            image_size, config.min_crop_scale, config.color_jitter, config.horizontal_flip, config.max_image_pixels
        )
        self.kinds: dict[Kind, KindSources] = {}
        """The kinds that a step holds, in their order in the global batch."""
        kinds: list[tuple[Kind, tuple[str, ...], int]] = [
            ("image", config.images, samples_per_step.images),
            ("pair", config.pairs, samples_per_step.pairs),
            ("text", config.texts, samples_per_step.texts),
        ]
        for number, (kind, entries, per_step) in enumerate(kinds):
            if per_step % world_size:
                raise ValueError(
                    f"{per_step} {kind}s per step must be a multiple of the {world_size} ranks; change one"
                )
            if per_step:
                # one rank compares files with checksums: hundreds that ask for every shard overwhelm a file system
                self.kinds[kind] = open_sources(kind, entries, config, per_step, seed + number, check_shards=rank == 0)
        check_cache_size(self.kinds.values(), config, world_size, ranks_per_node)
        self.now_reading: Callable[[int, Kind, int, int], None] | None = None
        """Called with step, kind, number of the source, and sample before each is read: names a dead worker's last."""
        self.done_reading: Callable[[], None] | None = None
        """Called when a batch is read."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Index fingerprints and weights of the sources of each kind: equal for equal data."""
        return {kind: sources.fingerprint for kind, sources in self.kinds.items()}

    def describe(self) -> list[str]:
        """Return a line per kind, and for texts a line per source with the share of <unk> in it."""
        lines = []
        for kind, sources in self.kinds.items():
            lines.append(sources.describe())
            lines += [self._coverage(source) for source in sources.sources if kind != "image"]
        return lines

    def _coverage(self, source: Source) -> str:
        assert self.tokenizer is not None
        share = covered_share(source.reader, self.tokenizer)
        return f"warning: {source.name}: {share.warning}" if share.warning else f"  {source.name}: {share}"

    def warnings(self) -> list[str]:
        """Return a line per source of which a step takes more samples than it holds."""
        return [line for sources in self.kinds.values() for line in sources.warnings()]

    def seen(self, step: int) -> dict[str, dict[str, float]]:
        """Return the number of passes over each source before `step`, over all ranks, by kind and name."""
        return {kind: sources.passes(step) for kind, sources in self.kinds.items()}

    def name(self, kind: Kind, source: int, sample: int) -> str:
        """Return shard and key of a sample, for messages."""
        reader = self.kinds[kind].sources[source].reader
        return f"{reader.shard_name(sample)}:{reader.key(sample)}"

    def __getitem__(self, step: int) -> StepBatch:
        """Return the batch of a step. If it cannot be read, it is empty and its `failure` has the reason.

        An exception would end this rank alone, while the others wait for it in the next collective: the ranks agree on
        a failure instead.
        """
        samples, bad = list[LoadedSample](), list[BadSample]()
        try:
            for read in self._read(step):
                if isinstance(read, BadSample):
                    bad.append(read)
                else:
                    samples.append(read)
            return collate(step, samples, bad, self.shape)
        except (RottenShardError, ShardMismatchError, OSError) as error:
            return self.failed(step, str(error), bad)
        except Exception:  # a bug must not end one rank alone either
            return self.failed(step, traceback.format_exc(), bad)
        finally:
            if self.done_reading is not None:
                self.done_reading()

    def failed(self, step: int, failure: str, bad: list[BadSample]) -> StepBatch:
        """Return an empty batch with the reason for it."""
        return collate(step, [], bad, self.shape, failure)

    def _read(self, step: int) -> Iterator[LoadedSample | BadSample]:
        """Yield this rank's samples of a step in order, and the bad samples in between."""
        first_id = step * self.samples_per_step.total
        for sources in self.kinds.values():
            part = sources.samples_per_step // self.world_size
            for place in range(self.rank * part, (self.rank + 1) * part):
                yield from self._read_place(sources, step, place, first_id + place)
            first_id += sources.samples_per_step

    def _read_place(
        self, sources: KindSources, step: int, place: int, sample_id: int
    ) -> Iterator[LoadedSample | BadSample]:
        """Yield the good sample of one place, after the bad ones that it replaces.

        A bad sample is replaced by its neighbor in the same shard: that is open already, and the choice depends on
        nothing but the sample, so that every topology makes the same one. Raises RottenShardError if there is none.
        """
        sources.fetch_ahead(step, place)
        source, sample = sources.locate(step, place)
        reader, last_bad = sources.sources[source].reader, ""
        for _ in range(min(MAX_NEIGHBORS, reader.shard_size(sample))):
            if self.now_reading is not None:
                self.now_reading(step, sources.kind, source, sample)
            try:
                loaded = self._load(sources.kind, reader, sample, sample_id)
            except BadSampleError as error:
                bad = BadSample(reader.shard_name(sample), reader.key(sample), str(error))
            else:
                yield loaded
                return
            yield bad
            last_bad, sample = str(bad), reader.neighbor(sample)
        raise RottenShardError(f"a shard without a good sample in reach; the last: {last_bad}")

    def _load(self, kind: Kind, reader: SampleReader, sample: int, sample_id: int) -> LoadedSample:
        """Return a sample, augmented by its id. Raises BadSampleError if it cannot be used."""
        pixels = ids = None
        if kind != "text":
            # keyed by the place in the run: the same view on any rank and worker, and after a restart
            rng = np.random.Generator(np.random.Philox(key=[self.seed, sample_id]))
            pixels = self.transform(reader.image_bytes(sample), rng)
        if kind != "image":
            length = self.shape.caption_length if kind == "pair" else self.shape.text_length
            ids = self._encode(reader.text(sample), length)
        return LoadedSample(kind, sample_id, reader.key(sample), pixels, ids)

    def _encode(self, text: str, length: int) -> list[int]:
        assert self.tokenizer is not None
        return encoded(self.tokenizer, text, length)


def encoded(tokenizer: TextTokenizer, text: str, length: int) -> list[int]:
    """Return the `length` ids of a text, cut or padded. Raises BadSampleError if the tokenizer finds no token in it."""
    ids = tokenizer.encode_to_length(text[: length * LONGEST_PIECE], length)
    if ids[1] == EOS_ID:
        raise BadSampleError(NO_TOKEN)
    return ids
