"""Options of pretrain.encode and pretrain.caption."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.sample import PretrainingKind
from data_pipeline.settings.command_line import num_cores
from data_pipeline.settings.ranges import ByteCount, Count, CountOrZero, TextLength, Workers, check_ranges
from data_pipeline.sources.readers import SourceOptions
from pretrain.config.evaluation import Beams, Penalty
from pretrain.config.run_config import WeightKind

Pool = Literal["projected", "class", "mean", "tokens", "map"]
"""projected: by the contrastive head. class: the class token of an image or pair, <s> of a text. mean: of patches and
words. tokens: all. map: the patches in their places, channels first."""
Precision = Literal["float32", "bfloat16"]
FEATURE_FORMS = (".npy", ".parquet")
MOST_WORKERS = 16
"""More processes by default would wait for one network."""
Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]


def few_cores() -> int:
    return min(MOST_WORKERS, num_cores())


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """The weights, and how samples are read."""

    source: Source
    """A run, whose newest checkpoint is taken, a checkpoint folder, RUN/checkpoints/best, a folder that
    pretrain.convert --to safetensors wrote, or a file of Microsoft's."""
    out: Path
    """File to write. It appears when it is complete."""
    weights: WeightKind = "raw"
    """Weights of a checkpoint: raw, as trained, or ema, their moving average."""
    device: str | None = None
    """Device of the network, such as cpu or cuda:1. None: a GPU if there is one."""
    precision: Precision = "float32"
    """Precision of the network's matrix products."""
    batch_size: Count = 64
    """Number of samples per forward."""
    num_workers: Workers = field(default_factory=few_cores)
    """Number of processes that read and decode."""
    max_image_pixels: ByteCount = DataConfig.max_image_pixels
    """Images with more pixels are skipped, by their headers, as in training."""
    cache_folder: Path = DataConfig.cache_folder
    """Folder where downloaded shards are kept."""
    columns: tyro.conf.OmitArgPrefixes[SourceOptions] = field(default_factory=SourceOptions)
    """Options for reading lists and tables."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check_out(self, *forms: str) -> None:
        """Raise ValueError unless the file to write has one of these suffixes and a folder to lie in."""
        if self.out.suffix not in forms:
            raise ValueError(f"--out {self.out} must end in {' or '.join(forms)}")
        if not self.out.parent.is_dir():
            raise ValueError(f"--out {self.out}: the folder {self.out.parent} does not exist; make it, or give another")


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(InferenceOptions):
    """Write features of images, texts or image-text pairs, in the order of the source. Samples that cannot be read are
    skipped and named. docs/features.md says which features serve which use."""

    images: str | None = None
    """Images: a folder, a list of paths (.txt), a table (.jsonl, .csv, .tsv, .parquet), or shards, also at a URL."""
    texts: str | None = None
    """Texts: a file with one per line (.txt), a table, or shards."""
    pairs: str | None = None
    """Image-text pairs: a table, COCO's JSON, a folder of images beside .txt files, or shards."""
    pool: Pool | None = None
    """Feature of a sample. projected: by the contrastive head. class: the class token of an image or pair, <s> of a
    text. mean: of patches and words. tokens: all of them. map: the patches in their places, channels first. None:
    projected if the weights have contrastive heads and --pairs and --layers are not given, else mean."""
    layers: str = ""
    """Blocks whose outputs are taken, before the final norm, separated by commas: 3,6,9,12. Empty: the network's
    output."""
    save_as: Literal["float32", "float16"] = "float32"
    """Type of the numbers in the file."""

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Numbers of the blocks. Raises ValueError for anything else."""
        if not re.fullmatch(r"([0-9]{1,4}(,[0-9]{1,4})*)?", self.layers):
            raise ValueError(f"--layers {self.layers!r:.60} must be numbers of blocks, separated by commas")
        return tuple(map(int, self.layers.split(","))) if self.layers else ()

    def data(self) -> tuple[PretrainingKind, str]:
        """Return the kind of the samples and their source. Raises ValueError unless there is one, and if the file to
        write is of no known format."""
        given: list[tuple[PretrainingKind, str | None]] = [
            ("image", self.images),
            ("text", self.texts),
            ("pair", self.pairs),
        ]
        found = [(kind, source) for kind, source in given if source is not None]
        if len(found) != 1:
            raise ValueError("give one of --images, --texts and --pairs")
        self.check_out(*FEATURE_FORMS)
        return found[0]


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(InferenceOptions):
    """Write a caption per image, as JSON lines in the order of the source. Images that cannot be read are skipped and
    named."""

    images: str
    """Images: a folder, a list of paths (.txt), a table (.jsonl, .csv, .tsv, .parquet), or shards, also at a URL."""
    num_beams: Beams = 3
    """Captions that a beam search follows for each image; 1: greedy."""
    length_penalty: Penalty = 0.6
    """Exponent of the length that a caption's log probability is divided by; larger values favor longer captions."""
    max_length: TextLength | None = None
    """Most tokens of a caption, <s> and </s> included. None: 32, or fewer if the captions of training are shorter."""
    min_words: CountOrZero = 1
    """Fewest tokens of a caption besides these."""

    def data(self) -> tuple[PretrainingKind, str]:
        """Return the kind of the samples and their source. Raises ValueError if the file to write has another form."""
        self.check_out(".jsonl")
        return "image", self.images
