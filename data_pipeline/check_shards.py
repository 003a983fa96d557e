"""python -m data_pipeline.check_shards FOLDER : read everything that a run would read.

Compares every shard with its checksum, decodes every image and text, names what a run would skip, and draws a contact
sheet of random samples as training sees them.
"""

import html
import re
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Interval

from data_pipeline.files.hashing import descriptor_sha256
from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.answers import read_list_beside
from data_pipeline.samples.sample import PARTS, BadSampleError, printable
from data_pipeline.samples.task_labels import TaskLabels
from data_pipeline.samples.tasks import task_of
from data_pipeline.settings.command_line import num_cores, progress_bar, run_command
from data_pipeline.settings.ranges import ByteCount, PartBelowOne, Seed, Side, Workers, check_ranges
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import index_problem, read_index
from data_pipeline.shards.reader import SampleReader, ShardMismatchError
from data_pipeline.shards.scan import SampleReport
from data_pipeline.texts.tokenizer import NO_TOKEN, TextTokenizer, UnknownShare, unknown_share
from data_pipeline.workers.pool import worker_pool
from data_pipeline.workers.under_way import at_sample

if TYPE_CHECKING:  # these import torch and Pillow, which take seconds: functions that need them import them
    from PIL.Image import Image

    from data_pipeline.images.transform import ImageTransform

MAX_ENCODED = 1 << 20
"""Characters of a text that are encoded. A run encodes fewer, and a whole book could exceed a sample's CPU time."""
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")


@dataclass(frozen=True)
class CheckOptions:
    """Check a folder of shards."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder or URL of shards with an index."""
    sheet: Path | None = None
    """Path of the contact sheet, a PNG. By default contact_sheet.png in FOLDER, or here if FOLDER is a URL."""
    num_shown: Annotated[int, Interval(ge=0, le=10_000)] = 24
    """Number of samples on the contact sheet; 0 draws none."""
    seed: Seed = 0
    """Seed for the samples that are shown and their crops."""
    image_size: Side = 224
    """Side of the crops that are shown, in pixels: the run's model.image_size."""
    min_crop_scale: Annotated[float, Interval(gt=0, le=1)] = DataConfig.min_crop_scale
    """The run's data.min_crop_scale."""
    color_jitter: PartBelowOne = DataConfig.color_jitter
    """The run's data.color_jitter."""
    horizontal_flip: bool = DataConfig.horizontal_flip
    """The run's data.horizontal_flip."""
    max_image_pixels: ByteCount = DataConfig.max_image_pixels
    """The run's data.max_image_pixels."""
    max_member_bytes: ByteCount = DataConfig.max_member_bytes
    """The run's data.max_member_bytes."""
    cache_folder: Path = DataConfig.cache_folder
    """Folder where downloaded shards are kept."""
    cache_bytes: ByteCount = DataConfig.cache_bytes
    """Maximum size of the cache in bytes."""
    cache_for_group: bool = False
    """Share the cache with the members of the folder's group."""
    text_tokenizer: Path | None = None
    """The run's SentencePiece model. With it, the share of <unk> and the texts without a token are reported."""
    num_workers: Workers = field(default_factory=num_cores)
    """Number of processes that read shards."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class CheckResult:
    """Findings in some shards."""

    report: SampleReport = field(default_factory=SampleReport)
    """num_kept counts the samples that a run can use, skipped those that it would skip."""
    damaged: list[str] = field(default_factory=list)
    """A sentence per shard that differs from the index or cannot be read."""
    num_texts: int = 0
    """Number of texts of the samples that a run can use."""
    num_characters: int = 0
    """Total length of the texts."""
    unknown: UnknownShare = field(default_factory=UnknownShare)
    """Share of <unk> in the texts, if a text tokenizer was given."""
    num_with_entities: int = 0
    """Number of texts with HTML entities."""
    first_with_entities: str = ""
    """Name of the first of them."""

    def count_text(self, name: str, text: str) -> None:
        self.num_texts += 1
        self.num_characters += len(text)
        if has_html_entities(text):
            self.num_with_entities += 1
            self.first_with_entities = self.first_with_entities or name

    def add(self, other: "CheckResult") -> None:
        self.report.add(other.report)
        self.damaged += other.damaged
        self.num_texts += other.num_texts
        self.num_characters += other.num_characters
        self.unknown += other.unknown
        self.num_with_entities += other.num_with_entities
        self.first_with_entities = self.first_with_entities or other.first_with_entities


def main() -> None:
    run_command(CheckOptions, "data_pipeline.check_shards", _check)


def _check(options: CheckOptions) -> str:
    """Return the report. Raises ValueError, with the whole report, if a shard is not the one that was indexed."""
    shown = ""
    index = open_reader(options).index
    if problem := problem_of_index(options):
        raise ValueError(problem)
    if options.num_shown:  # first: a sheet that cannot be written must not cost hours of reading
        sheet = options.sheet or Path("" if is_remote(options.folder) else options.folder) / "contact_sheet.png"
        picture, problem = draw_contact_sheet(options)
        try:
            picture.save(sheet, "png")
        except OSError as error:
            raise ValueError(f"{sheet} cannot be written ({error.strerror or error}); give --sheet FILE") from error
        shown = f", see {sheet}" + (f" ({problem})" if problem else "")
    result = check_shards(options)
    lines = result.report.lines()
    lines.append(f"{public_url(options.folder)}: {index.kind}, {index}; a run can use {result.report.num_kept}{shown}")
    if result.num_texts:
        lines.append(f"  {result.num_characters / result.num_texts:.0f} characters per text on average")
        if options.text_tokenizer is not None:
            lines.append(f"  warning: {result.unknown.warning}" if result.unknown.warning else f"  {result.unknown}")
    if result.num_with_entities:
        lines.append(
            f"  {result.num_with_entities} texts hold HTML entities such as &amp;, the first "
            f"{result.first_with_entities}; write_shards --unescape-html turns them into characters"
        )
    if result.damaged:
        raise ValueError("\n".join([*result.damaged, *lines]))
    return "\n".join(lines)


def check_shards(options: CheckOptions) -> CheckResult:
    """Read every shard in a pool of worker processes, one shard per task."""
    result = CheckResult()
    if options.text_tokenizer is not None:
        open_tokenizer(options.text_tokenizer)  # raises now if it is damaged, not after hours of reading
    index = open_reader(options).index
    num_shards = len(index.shards)
    if problem := problem_of_index(options):
        result.damaged.append(problem)
        return result  # its records cannot be trusted
    checking_transform(options)  # imports torch once, before the fork, not in each worker
    with worker_pool(options.num_workers) as workers, progress_bar("shards", num_shards) as progress:
        for part in workers.map(partial(check_shard, options), range(num_shards)):
            result.add(part)
            progress.update()
    return result


@lru_cache(maxsize=1)
def problem_of_index(options: CheckOptions) -> str:
    """Return a sentence if the records of the index are damaged, else "". They are read once per process."""
    return index_problem(open_reader(options).index, options.folder)


@lru_cache(maxsize=1)
def open_reader(options: CheckOptions) -> SampleReader:
    """Return the reader of the shards, opened once per process."""
    cache = ShardCache(options.cache_folder, options.cache_bytes, options.cache_for_group)
    return SampleReader(read_index(options.folder, cache, check_shards=False), options.max_member_bytes, cache)


def check_shard(options: CheckOptions, number: int) -> CheckResult:
    """Read one shard as a run would, in a worker."""
    reader, result = open_reader(options), CheckResult()
    shard = reader.index.shards[number]
    name = printable(shard.name)
    try:
        if descriptor_sha256(reader.open_shard(number)) != shard.sha256:
            result.damaged.append(f"shard {name} differs from its checksum; restore it or index again")
        _check_samples(options, number, result)
    except (OSError, ShardMismatchError) as error:
        num_checked = result.report.num_kept + sum(result.report.skipped.values())
        reason = f"shard {name} cannot be read"
        detail = getattr(error, "strerror", None)
        result.damaged.append(f"{reason} ({detail})" if detail else str(error))
        result.report.skipped[reason] += shard.num_samples - num_checked
        result.report.examples[reason] = name
    return result


def _check_samples(options: CheckOptions, number: int, result: CheckResult) -> None:
    reader, transform, labels = open_reader(options), checking_transform(options), labels_beside(options)
    parts = PARTS[reader.index.kind]
    first, stop = reader.index.shard_starts[number : number + 2]
    for sample in range(first, stop):
        name = printable(f"{reader.index.shards[number].name}:{reader.key(sample)}")
        try:
            with at_sample(name):
                if "image" in parts:
                    transform.center(reader.image_bytes(sample))
                if "image2" in parts:
                    transform.center(reader.image_bytes(sample, "image2"))
                annotation = reader.annotation(sample) if "json" in parts else None
                if labels is not None and annotation is not None:
                    labels.check(annotation)
                for text in reader.texts(sample):
                    result.unknown += checked_share(text, options.text_tokenizer)
                    result.count_text(name, text)
        except BadSampleError as error:
            result.report.skip(name + error.details, error.reason)
        else:
            result.report.num_kept += 1


@lru_cache(maxsize=1)
def labels_beside(options: CheckOptions) -> TaskLabels | None:
    """Return the labels by the list beside local shards, read once per process; None if there is no list."""
    kind = open_reader(options).index.kind
    names = None if is_remote(options.folder) else read_list_beside(Path(options.folder), kind)
    return None if names is None else TaskLabels(task_of(kind), names)


def checked_share(text: str, text_tokenizer: Path | None) -> UnknownShare:
    """Return the share of <unk> in a text. Raises BadSampleError if the tokenizer gives no token."""
    if text_tokenizer is None:
        return UnknownShare()
    share = unknown_share(open_tokenizer(text_tokenizer).encode(text[:MAX_ENCODED]))
    if not share.num_tokens:
        raise BadSampleError(NO_TOKEN)
    return share


@lru_cache(maxsize=1)
def open_tokenizer(path: Path) -> TextTokenizer:
    """Return the tokenizer, read once per process."""
    return TextTokenizer(path)


def checking_transform(options: CheckOptions) -> "ImageTransform":
    """Return a transform that accepts what a run accepts; it is small, since its pixels are not used."""
    from data_pipeline.images.transform import ImageTransform

    return ImageTransform(64, 1, 0, False, options.max_image_pixels)


def draw_contact_sheet(options: CheckOptions) -> "tuple[Image, str]":
    """Return the sheet, and a sentence about the characters that it cannot show."""
    from data_pipeline.images.transform import ImageTransform
    from data_pipeline.shards.contact_sheet import draw_sheet

    transform = ImageTransform(
        options.image_size,
        options.min_crop_scale,
        options.color_jitter,
        options.horizontal_flip,
        options.max_image_pixels,
    )
    return draw_sheet(open_reader(options), options.num_shown, options.seed, transform)


def has_html_entities(text: str) -> bool:
    """Return whether a text holds HTML entities, such as &amp; or &#39;."""
    return any(html.unescape(found[0]) != found[0] for found in _ENTITY.finditer(text))


if __name__ == "__main__":
    main()
