"""Datasets of a run: a map from step to this rank's part of the global batch, put together from shards.

    for batch in step_batches(StepDataset(...), first_step, last_step, num_workers): ...

A batch is a function of the step, the seed and the data alone. So a run resumes by starting the range elsewhere, on any
number of ranks and workers: there is no iterator state to save, and nothing to replay.

Rank r of W takes the r-th of W equal parts of each kind of samples. A sample's id, which keys its augmentation and
masks, is its place in the run: step * samples per global batch + place in the global batch.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from torch.utils.data import Dataset

from data_pipeline.loading.config import LoaderConfig
from data_pipeline.loading.kind_sources import KindSources, Source, check_cache_size, open_sources, sample_noun
from data_pipeline.loading.tensor_fields import TensorFields
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.shards.reader import SampleReader, ShardMismatchError
from data_pipeline.texts.token_coverage import covered_share
from data_pipeline.texts.tokenizer import TextTokenizer, UnknownShare

MAX_NEIGHBORS = 100
"""Samples that are tried for one place of a batch."""
AUGMENTATION, CAPTION, SECOND_IMAGE = 0, 1, 2
"""Purposes of the random draws for a sample."""

BatchT = TypeVar("BatchT", bound=TensorFields)
LoadedT = TypeVar("LoadedT")


class RottenShardError(Exception):
    """Too many bad samples in a row."""


class ShardDataset(Dataset[BatchT], ABC, Generic[BatchT, LoadedT]):
    """`dataset[step]` is this rank's part of global batch `step`: a BatchT of samples, each a LoadedT."""

    tokenizer: TextTokenizer | None
    """None if there are only images."""

    def __init__(
        self,
        kinds: list[tuple[Kind, tuple[str, ...], int]],
        config: LoaderConfig,
        seed: int,
        rank: int,
        world_size: int,
        ranks_per_node: int,
    ):
        """kinds: the kinds of samples in their order in the global batch, each with the sources and the number of
        samples per step. ranks_per_node: the number of ranks that share the cache of remote shards.

        Raises ValueError for missing or damaged shards and for batch sizes that ranks or lanes do not divide.
        """
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.num_samples = sum(per_step for _, _, per_step in kinds)
        """Number of samples in the global batch."""
        self.kinds: dict[Kind, KindSources] = {}
        """The kinds that a step holds, in their order in the global batch."""
        for number, (kind, entries, per_step) in enumerate(kinds):
            if per_step % world_size:
                raise ValueError(
                    f"{per_step} {sample_noun(kind)}s per step must be a multiple of the {world_size} ranks; change one"
                )
            if per_step:
                # one rank compares files with checksums: hundreds that ask for every shard overwhelm a file system
                self.kinds[kind] = open_sources(kind, entries, config, per_step, seed + number, check_shards=rank == 0)
        check_cache_size(self.kinds.values(), config, world_size, ranks_per_node)
        self.now_reading: Callable[[int, Kind, int, int], None] | None = None
        """Called with step, kind, number of the source, and sample before each is read: names a dead worker's last."""
        self.done_reading: Callable[[], None] | None = None
        """Called when a batch is read."""

    @abstractmethod
    def collate(self, step: int, samples: list[LoadedT], bad: list[BadSample], failure: str = "") -> BatchT:
        """Put samples together. Without samples the tensors have their shapes too."""

    @abstractmethod
    def load(self, kind: Kind, reader: SampleReader, sample: int, sample_id: int) -> LoadedT:
        """Return a sample, augmented by its id. Raises BadSampleError if it cannot be used."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Index fingerprints and weights of the sources of each kind: equal for equal data."""
        return {kind: sources.fingerprint for kind, sources in self.kinds.items()}

    def describe(self) -> list[str]:
        """Return a line per kind, and for texts a line per source with the share of <unk> in it."""
        lines = []
        for kind, sources in self.kinds.items():
            lines.append(sources.describe())
            if self.tokenizer is not None and kind not in ("image", "label"):
                lines += [self._coverage(source) for source in sources.sources]
        return lines

    def covered_share(self, source: Source) -> UnknownShare:
        """Return the share of `<unk>` in the texts of a source."""
        assert self.tokenizer is not None
        return covered_share(source.reader, self.tokenizer)

    def _coverage(self, source: Source) -> str:
        share = self.covered_share(source)
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

    def __getitem__(self, step: int) -> BatchT:
        """Return the batch of a step. If it cannot be read, it is empty and its `failure` has the reason.

        An exception would end this rank alone, while the others wait for it in the next collective: the ranks agree on
        a failure instead.
        """
        samples, bad = list[LoadedT](), list[BadSample]()
        try:
            for read in self._read(step):
                if isinstance(read, BadSample):
                    bad.append(read)
                else:
                    samples.append(read)
            return self.collate(step, samples, bad)
        except (RottenShardError, ShardMismatchError, OSError) as error:
            return self.failed(step, str(error), bad)
        except Exception:  # a bug must not end one rank alone either
            return self.failed(step, traceback.format_exc(), bad)
        finally:
            if self.done_reading is not None:
                self.done_reading()

    def failed(self, step: int, failure: str, bad: list[BadSample]) -> BatchT:
        """Return an empty batch with the reason for it."""
        return self.collate(step, [], bad, failure)

    def _read(self, step: int) -> Iterator[LoadedT | BadSample]:
        """Yield this rank's samples of a step in order, and the bad samples in between."""
        first_id = step * self.num_samples
        for sources in self.kinds.values():
            part = sources.samples_per_step // self.world_size
            for place in range(self.rank * part, (self.rank + 1) * part):
                yield from self._read_place(sources, step, place, first_id + place)
            first_id += sources.samples_per_step

    def _read_place(self, sources: KindSources, step: int, place: int, sample_id: int) -> Iterator[LoadedT | BadSample]:
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
                loaded = self.load(sources.kind, reader, sample, sample_id)
            except BadSampleError as error:
                bad = BadSample(reader.shard_name(sample), reader.key(sample), str(error))
            else:
                yield loaded
                return
            yield bad
            last_bad, sample = str(bad), reader.neighbor(sample)
        raise RottenShardError(f"a shard without a good sample in reach; the last: {last_bad}")


def sample_generator(seed: int, sample_id: int, purpose: int = AUGMENTATION) -> np.random.Generator:
    """Return what is random about a sample, keyed by its place in the run: the same on any rank and worker, and after a
    restart. purpose: each has draws of its own."""
    return np.random.Generator(np.random.Philox(key=[seed, sample_id], counter=[0, 0, 0, purpose]))
