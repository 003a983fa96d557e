"""python -m data_pipeline.check_shards FOLDER : read all that a run would read, and look at some of it.

Compares every shard with its checksum, decodes every image and text, counts, names what a run would skip, and draws a
contact sheet of random samples.
"""

import hashlib
import os
import textwrap
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from annotated_types import Interval
from PIL import Image, ImageDraw, ImageFont, ImageOps

from data_pipeline.command_line import num_cores, progress_bar, run_command, worker_pool
from data_pipeline.config import DataConfig
from data_pipeline.image_transform import ImageTransform, open_image, to_rgb, upright
from data_pipeline.remote_files import is_remote
from data_pipeline.sample_reader import SampleReader, ShardMismatchError
from data_pipeline.samples import BadSampleError
from data_pipeline.shard_cache import ShardCache
from data_pipeline.shard_index import damaged_records, read_index, records_name
from data_pipeline.shard_scan import SampleReport
from settings.ranges import ByteCount, Seed, Workers, check_ranges

TILE = 208
"""Pixels of a tile of the contact sheet, margins included."""
MARGIN = 6
LINE = 14
CAPTION_LINES = 5
LETTERS = 34
"""Of a line of text in a tile."""


@dataclass(frozen=True)
class CheckOptions:
    """Read a folder of shards through."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder or URL of shards with an index."""
    sheet: Path | None = None
    """The contact sheet to write, a PNG. None: contact_sheet.png in the folder, or here if that is a URL."""
    num_shown: Annotated[int, Interval(ge=0, le=10_000)] = 24
    """Samples on the contact sheet; 0: no sheet."""
    seed: Seed = 0
    """Of the choice of samples that are shown."""
    max_image_pixels: ByteCount = DataConfig.max_image_pixels
    """As the run will have it."""
    max_member_bytes: ByteCount = DataConfig.max_member_bytes
    """As the run will have it."""
    cache_folder: Path = DataConfig.cache_folder
    """Where remote shards are kept."""
    cache_bytes: ByteCount = DataConfig.cache_bytes
    """Most that the cache may hold."""
    num_workers: Workers = field(default_factory=num_cores)
    """Processes that read."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class CheckResult:
    """What a run would find."""

    report: SampleReport = field(default_factory=SampleReport)
    """num_kept: samples that can be used; skipped: those that a run would skip."""
    damaged: list[str] = field(default_factory=list)
    """Shards that are not those of the index."""
    num_characters: int = 0
    """Of all texts."""

    def add(self, other: "CheckResult") -> None:
        self.report.add(other.report)
        self.damaged += other.damaged
        self.num_characters += other.num_characters


def main() -> None:
    run_command(CheckOptions, "data_pipeline.check_shards", _check)


def _check(options: CheckOptions) -> str:
    """Raises ValueError, with the whole report, where a shard is not the one that was indexed."""
    shown = ""
    if options.num_shown:  # first, so that hours of reading are not lost to a sheet that cannot be written
        sheet = options.sheet or Path("" if is_remote(options.folder) else options.folder) / "contact_sheet.png"
        draw_contact_sheet(options).save(sheet, "png")
        shown = f", see {sheet}"
    result = check_shards(options)
    index = open_reader(options).index
    lines = result.report.lines()
    lines.append(f"{options.folder}: {index.kind}, {index}; a run can use {result.report.num_kept}{shown}")
    if index.kind != "image" and result.report.num_kept:
        lines.append(f"  {result.num_characters / result.report.num_kept:.0f} characters a text on average")
    if result.damaged:
        raise ValueError("\n".join([*lines, *result.damaged]))
    return "\n".join(lines)


def check_shards(options: CheckOptions) -> CheckResult:
    """Read every shard, each in one of the worker processes."""
    result = CheckResult()
    index = open_reader(options).index
    num_shards = len(index.shards)
    path = None if is_remote(options.folder) else Path(options.folder) / records_name(index.records_sha256)
    if problem := damaged_records(index, path):
        result.damaged.append(f"the index of {options.folder} is damaged ({problem}); index the folder again")
    with worker_pool(options.num_workers) as workers, progress_bar("shards", num_shards) as progress:
        for part in workers.map(partial(check_shard, options), range(num_shards)):
            result.add(part)
            progress.update()
    return result


@lru_cache(maxsize=1)
def open_reader(options: CheckOptions) -> SampleReader:
    """Opened once a process."""
    cache = ShardCache(options.cache_folder, options.cache_bytes)
    return SampleReader(read_index(options.folder, cache, check_shards=False), options.max_member_bytes, cache)


def check_shard(options: CheckOptions, number: int) -> CheckResult:
    """In a worker: read one shard as a run would."""
    reader, result = open_reader(options), CheckResult()
    shard = reader.index.shards[number]
    try:
        with os.fdopen(os.dup(reader.open_shard(number)), "rb") as file:
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                result.damaged.append(f"shard {shard.name} differs from its checksum; restore it or index again")
    except (OSError, ShardMismatchError) as error:
        result.damaged.append(str(error))
        result.report.skipped[f"shard {shard.name} cannot be read"] += shard.num_samples
        result.report.examples[f"shard {shard.name} cannot be read"] = shard.name
        return result
    transform = checking_transform(options)
    first, stop = reader.index.shard_starts[number : number + 2]
    for sample in range(first, stop):
        try:
            if reader.index.kind != "text":
                transform.center(reader.image_bytes(sample))
            if reader.index.kind != "image":
                result.num_characters += len(reader.text(sample))
        except BadSampleError as error:
            result.report.skip(f"{shard.name}:{reader.key(sample)}", error.reason)
        else:
            result.report.num_kept += 1
    return result


def checking_transform(options: CheckOptions) -> ImageTransform:
    """Accepts what a run accepts; small, since its pixels are not used."""
    return ImageTransform(64, 1, 0, False, options.max_image_pixels)


def draw_contact_sheet(options: CheckOptions) -> Image.Image:
    """Random samples with their texts; what a run would skip shows its reason instead."""
    reader = open_reader(options)
    generator = np.random.default_rng(options.seed)
    num_shown = min(options.num_shown, reader.index.num_samples)
    chosen = sorted(generator.choice(reader.index.num_samples, num_shown, replace=False))
    num_columns = min(6, num_shown)
    tile_height = TILE + LINE * CAPTION_LINES if reader.index.kind != "text" else TILE
    sheet = Image.new("RGB", (num_columns * TILE, -(-num_shown // num_columns) * tile_height), "white")
    for number, sample in enumerate(chosen):
        row, column = divmod(number, num_columns)
        sheet.paste(_tile(reader, int(sample), options, tile_height), (column * TILE, row * tile_height))
    return sheet


def _tile(reader: SampleReader, sample: int, options: CheckOptions, height: int) -> Image.Image:
    tile = Image.new("RGB", (TILE, height), "white")
    draw, font, top = ImageDraw.Draw(tile), ImageFont.load_default(LINE - 3), MARGIN
    text, color = reader.key(sample), "gray"
    try:
        if reader.index.kind != "text":
            encoded = reader.image_bytes(sample)
            checking_transform(options).center(encoded)  # raises what a run would skip it for
            with open_image(encoded, options.max_image_pixels) as image:
                image.load()  # it is read when it is needed, and the file is closed by then
                picture = upright(to_rgb(image), image)
            tile.paste(ImageOps.contain(picture, (TILE - 2 * MARGIN, TILE - 2 * MARGIN)), (MARGIN, MARGIN))
            top = TILE
        if reader.index.kind != "image":
            text, color = reader.text(sample), "black"
    except (BadSampleError, OSError, ShardMismatchError) as error:
        text, color = f"{reader.key(sample)}: {error}", "red"
    for line in textwrap.wrap(text[:1000], LETTERS)[: (height - top) // LINE]:
        draw.text((MARGIN, top), line, fill=color, font=font)
        top += LINE
    return tile


if __name__ == "__main__":
    main()
