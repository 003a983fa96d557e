"""The sources of one kind of data: opened and checked, each in an order of its own, mixed by weight, fetched ahead."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.loading.config import DataConfig, LoaderConfig, parse_source
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.order import SampleOrder
from data_pipeline.samples.sample import Kind
from data_pipeline.samples.tasks import is_task
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import ShardIndex, read_index
from data_pipeline.shards.reader import SampleReader


@dataclass(frozen=True)
class Source:
    """One folder of shards and the order in which its samples are visited."""

    name: str
    """Path or URL, without passwords."""
    weight: Fraction
    """How often its samples are visited, relative to those of other sources."""
    reader: SampleReader
    order: SampleOrder

    @property
    def index(self) -> ShardIndex:
        return self.reader.index


class KindSources:
    """Maps the places of a step to samples of the sources of one kind, and fetches remote shards ahead of them."""

    def __init__(self, kind: Kind, sources: list[Source], samples_per_step: int, num_lanes: int, seed: int):
        """samples_per_step: the number of samples of this kind in the global batch, a multiple of num_lanes."""
        self.kind, self.sources, self.samples_per_step = kind, sources, samples_per_step
        sizes = [source.index.num_samples for source in sources]
        self.mixture = Mixture(sizes, [source.weight for source in sources], samples_per_step, num_lanes, seed)
        self._last_windows: dict[tuple[int, int], tuple[int, int]] = {}
        """The window that was read last, by source and lane."""

    def locate(self, step: int, place: int) -> tuple[int, int]:
        """Return the number of the source at a place of the global batch, and that of the sample in its index.

        A pure function of step and place: nothing that was read before changes it.
        """
        draw = self.mixture.draw(step, place)
        return draw.source, self.sources[draw.source].order.sample(draw.lane, draw.position)

    def fetch_ahead(self, step: int, place: int) -> None:
        """Have the remote shards of the next window fetched in the background if this place begins a window.

        By then the lane has a whole window to read, which is the time that the download has.
        """
        draw = self.mixture.draw(step, place)
        source = self.sources[draw.source]
        window = source.order.window(draw.lane, draw.position)
        if self._last_windows.get((draw.source, draw.lane)) != window:
            self._last_windows[draw.source, draw.lane] = window
            source.reader.look_ahead(source.order.shards_after(draw.lane, draw.position))

    @property
    def fingerprint(self) -> str:
        """Index fingerprints and weights of the sources: equal for equal data."""
        return " ".join(f"{source.index.fingerprint}={source.weight}" for source in self.sources)

    def describe(self) -> str:
        """Return a line with each source, its number of samples and its share of all draws."""
        shares = zip(self.sources, self.mixture.shares, strict=True)
        return f"{self.kind}: " + ", ".join(
            f"{source.name} {source.index.num_samples} samples {share:.0%}" for source, share in shares
        )

    def warnings(self) -> list[str]:
        """Return a line per source of which a step takes more samples than it holds."""
        noun = sample_noun(self.kind)
        setting = "task_samples_per_step" if is_task(self.kind) else f"{noun}s_per_step"
        return [
            f"a step takes {self.samples_per_step * share:.0f} {noun}s of {source.name}, which holds "
            f"{source.index.num_samples}: a batch repeats samples; lower {setting}, or add {noun}s"
            for source, share in zip(self.sources, self.mixture.shares, strict=True)
            if self.samples_per_step * share > source.index.num_samples
        ]

    def passes(self, step: int) -> dict[str, float]:
        """Return the number of passes over each source before `step`, over all ranks, by name."""
        return {
            source.name: round(seen / source.index.num_samples, 4)
            for source, seen in zip(self.sources, self.mixture.seen(step), strict=True)
        }


def sample_noun(kind: Kind) -> str:
    """Return the word for a sample in messages: pretraining has images, pairs and texts, a task only samples."""
    return "sample" if is_task(kind) else kind


def open_sources(
    kind: Kind, entries: tuple[str, ...], config: LoaderConfig, samples_per_step: int, seed: int, check_shards: bool
) -> KindSources:
    """Open the sources of a kind.

    entries: as on the command line, FOLDER or FOLDER=WEIGHT. check_shards: as read_index has it.
    Raises ValueError for a source that is missing, damaged or of another kind, and if the lanes do not fit.
    """
    noun = sample_noun(kind)
    if not entries:
        setting = "data.shards" if is_task(kind) else f"data.{kind}s"
        raise ValueError(f"{samples_per_step} {noun}s per step need a source; set {setting}")
    if samples_per_step % config.num_lanes:
        raise ValueError(
            f"{samples_per_step} {noun}s per step must be a multiple of data.num_lanes {config.num_lanes}; change one"
        )
    cache = ShardCache(config.cache_folder, config.cache_bytes, config.cache_for_group)
    sources = []
    for entry in entries:
        folder, weight = parse_source(entry)
        index = read_index(folder, cache, check_shards)
        _check_index(index, public_url(folder), kind, config)
        order = SampleOrder([shard.num_samples for shard in index.shards], config.num_lanes, config.window_shards, seed)
        sources.append(Source(public_url(folder), weight, SampleReader(index, config.max_member_bytes, cache), order))
    return KindSources(kind, sources, samples_per_step, config.num_lanes, seed)


def _check_index(index: ShardIndex, name: str, kind: Kind, config: LoaderConfig) -> None:
    """Raise ValueError if a run cannot use the samples of a source, or if they do not fill the lanes."""
    # of several captions, one is drawn; that of a labelled image is the name of its class
    accepted = ("pair", "caption", "label") if kind == "pair" else (kind,)
    if index.kind not in accepted:
        raise ValueError(f"{name} holds shards of kind {index.kind!r}, not {kind!r}; give the right folder")
    if isinstance(config, DataConfig) and index.text_length > config.text_length:
        raise ValueError(
            f"{name} holds passages of up to {index.text_length} ids, of which data.text_length {config.text_length} "
            f"would cut the rest; raise it, or write shards with --text-length {config.text_length}"
        )
    noun = sample_noun(kind)
    if index.num_samples < config.num_lanes:
        raise ValueError(
            f"{name} holds {index.num_samples} {noun}s, fewer than data.num_lanes {config.num_lanes}; "
            f"lower it, or add {noun}s"
        )


def check_cache_size(kinds: Iterable[KindSources], config: LoaderConfig, world_size: int, ranks_per_node: int) -> None:
    """Raise ValueError if the cache of a node cannot hold the shards that its ranks read at once.

    Each lane that a node reads needs the window it is in and the one that is fetched ahead. In a smaller cache these
    would evict each other, and every shard would be downloaded over and over.
    """
    num_lanes = min(config.num_lanes, ranks_per_node * -(-config.num_lanes // world_size))
    needed = 0
    for source in (source for kind in kinds for source in kind.sources):
        if is_remote(source.index.folder):
            sizes = [shard.num_bytes for shard in source.index.shards]
            needed += min(sum(sizes), 2 * config.window_shards * num_lanes * max(sizes))
    if needed > config.cache_bytes:
        raise ValueError(
            f"two windows of {config.window_shards} shards in each of {num_lanes} lanes of a node take {needed} "
            f"bytes, more than data.cache_bytes {config.cache_bytes}; raise it, or lower data.window_shards"
        )
