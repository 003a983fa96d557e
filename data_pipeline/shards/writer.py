"""Writing one shard from a block of records: read, filter, re-encode, write, and report what was skipped and why.

A block is a fixed range of a source, and a shard depends on nothing but its block: any number of processes can write
shards in any order, and after a kill the complete ones are kept. A shard is complete if its scan exists.
"""

import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Interval
from PIL import Image
from PIL.ImageFile import ImageFile

from data_pipeline.files.partial_files import own_partial
from data_pipeline.files.retries import cannot_be_written, with_retries
from data_pipeline.images.converted import converted_to_rgb, open_any
from data_pipeline.images.decoding import is_stored_format, to_rgb, upright
from data_pipeline.samples.records import ImageLocation, Record, read_image
from data_pipeline.samples.sample import PARTS, BadSampleError, Kind, check_text
from data_pipeline.samples.scenes import Split
from data_pipeline.samples.tasks import checked_annotation, is_task
from data_pipeline.settings.ranges import ByteCount, CountOrZero, Part, check_ranges
from data_pipeline.shards.members import record_dtype
from data_pipeline.shards.scan import SampleReport, ShardScan, file_origin, save_scan, scan_shard
from data_pipeline.workers.under_way import at_sample

MAX_UNREADABLE = 10
"""Number of consecutive unreadable images, after retries, after which the file system counts as gone."""
HELD_OUT_FRACTION = 0.1
"""Fraction of the kinds of pretraining that is held out by default."""
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
OTHER_SIDE: dict[Split, str] = {
    "train": "held out, --split held_out writes it",
    "held_out": "not held out, --split train writes it",
}
"""Reasons for skipping a sample of the other side of the split."""
VERIFIED_SIDE = 64
"""Images are decoded once at about this size, which is cheap for JPEG, to find truncated ones."""


class UnreadableImageError(BadSampleError):
    """Raised if an image cannot be read from disk. A single file may be damaged; if many are, the disk is gone."""


@dataclass(frozen=True)
class SampleFilter:
    """Rules for keeping samples and storing images."""

    min_side: CountOrZero = 0
    """Minimum pixels of an image's shorter side; smaller images are skipped."""
    max_side: CountOrZero = 0
    """Maximum pixels of an image's longer side; larger images are scaled down and re-encoded. 0 disables it."""
    quality: Annotated[int, Interval(ge=1, le=100)] = 90
    """JPEG quality of re-encoded images."""
    min_caption: CountOrZero = 1
    """Minimum characters of a caption; shorter captions are skipped."""
    max_caption: CountOrZero = 10_000
    """Maximum characters of a caption; longer captions are skipped."""
    max_image_pixels: ByteCount = 64_000_000
    """Images with more pixels, by their headers, are skipped."""
    held_out_fraction: Part | None = None
    """Fraction that is held out, chosen by a hash of the image, or of the text if there is no image. By default 0.1,
    and 0 for the kinds of tasks, whose sources have splits. Drawn scenes are held out by composition instead."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def fraction(self, kind: Kind) -> float:
        """Return the fraction of a kind that is held out."""
        if self.held_out_fraction is not None:
            return self.held_out_fraction
        return 0.0 if is_task(kind) else HELD_OUT_FRACTION


def write_shard(
    path: Path,
    kind: Kind,
    records: Iterable[Record],
    keep: SampleFilter,
    split: Split | None,
    scan_path: Path,
    block: str,
    report: SampleReport,
) -> None:
    """Write one shard and its scan, completely or not at all.

    split: the side of the held-out fraction to write; None writes all. block: digest of the block. report: what was
    skipped before. If no sample is kept, only the scan is written.
    """
    partial = own_partial(path)
    try:
        num_written = _write_tar(partial, path.name, records, kind, keep, split, report)
        if num_written:
            partial.rename(path)
            scan = scan_shard(path, kind, file_origin(path), block)
            assert scan.report.num_kept == num_written
            scan.report.add(report)
        else:
            path.unlink(missing_ok=True)
            scan = ShardScan(kind, "", block, 0, "", np.empty(0, record_dtype(1, kind)), np.empty(0, np.uint64), report)
        save_scan(scan, scan_path)
    except OSError as error:
        raise cannot_be_written(path, error) from error
    finally:
        partial.unlink(missing_ok=True)  # left if it could not be written: a full disk needs the space


def _write_tar(
    partial: Path,
    shard: str,
    records: Iterable[Record],
    kind: Kind,
    keep: SampleFilter,
    split: Split | None,
    report: SampleReport,
) -> int:
    """Write the samples that are kept and report the others. Returns the number written."""
    keys: set[str] = set()
    num_written = num_unreadable = 0
    with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for record in records:
            name = record.place or f"{shard}:{record.key}"
            try:
                with at_sample(name):
                    members = sample_members(record, kind, keep, split)
                num_unreadable = 0
            except BadSampleError as error:
                num_unreadable = num_unreadable + 1 if isinstance(error, UnreadableImageError) else 0
                if num_unreadable == MAX_UNREADABLE:
                    raise ValueError(
                        f"{MAX_UNREADABLE} images in a row cannot be read, the last {name}{error.details}; repair "
                        "their file system and rerun the same command to resume"
                    ) from error
                report.skip(name + error.details, error.reason)
                continue
            if members is None:
                assert split is not None
                report.skip(name, OTHER_SIDE[split])
            else:
                key = unused_key(record.key, keys)
                keys.add(key)
                for extension, content in members.items():
                    _add(tar, f"{key}.{extension}", content)
                num_written += 1
        tar.close()
        os.fsync(file.fileno())
    return num_written


def unused_key(key: str, used: set[str]) -> str:
    """Return the key, with a number appended if it is taken: a/b.jpg and a_b.png give the same key."""
    numbered = (f"{key}-{number}" for number in itertools.count(2))
    return key if key not in used else next(candidate for candidate in numbered if candidate not in used)


def sample_members(record: Record, kind: Kind, keep: SampleFilter, split: Split | None) -> dict[str, bytes] | None:
    """Return the files of a sample by extension; None if it belongs to the other side of the split.

    Raises BadSampleError, with the reason, if the sample is not kept.
    """
    members: dict[str, bytes] = {}
    parts = PARTS[kind]
    if record.problem:
        raise BadSampleError(record.problem)
    if "text" in parts:
        members["txt"] = _text(record, keep, is_caption=kind == "pair")
    if "image" in parts:
        encoded = _read_image(record.image, "image")
        if split is not None and is_held_out(encoded, keep.fraction(kind)) != (split == "held_out"):
            return None
        extension, encoded = _image(encoded, keep)
        members = {extension: encoded, **members}
    if "image2" in parts:
        extension, encoded = _image(_read_image(record.image2, "second image"), keep)
        members[f"image2.{extension}"] = encoded
    if is_task(kind):
        members["json"] = _annotation(record, kind, keep)
    elif record.metadata:
        members["json"] = json.dumps(record.metadata).encode()
    return members


def _annotation(record: Record, kind: Kind, keep: SampleFilter) -> bytes:
    """Return the .json member of a sample of a task, without captions that are too short or too long."""
    fields = record.metadata
    if captions := fields.get("captions"):
        kept = [caption for caption in captions if keep.min_caption <= len(caption) <= keep.max_caption]
        if not kept:
            raise BadSampleError(f"no caption has {keep.min_caption} to {keep.max_caption} characters")
        fields = {**fields, "captions": kept}
    checked_annotation(kind, fields)
    return json.dumps(fields).encode()


def is_in_split(record: Record, fraction: float, split: Split) -> bool:
    """Return whether a record belongs to this side of the split. A missing image is on neither side."""
    if fraction == 0:
        return split == "train"
    try:
        is_text = record.image is None
        content = (record.text or "").encode(errors="surrogatepass") if is_text else _read_image(record.image, "image")
    except BadSampleError:
        return False
    return is_held_out(content, fraction) == (split == "held_out")


def is_held_out(content: bytes, fraction: float) -> bool:
    """Return whether a content is held out: exact copies, and all captions of an image, are always on the same side."""
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") < fraction * 2**32


def checked_text(record: Record) -> str:
    """Return the stripped text of a record. Raises BadSampleError if it cannot be used."""
    if record.problem:
        raise BadSampleError(record.problem)
    text = (record.text or "").strip()
    if not text:
        raise BadSampleError("text is missing or empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSampleError(f"text is not UTF-8 (at character {error.start})") from error
    check_text(text)
    return text


def _text(record: Record, keep: SampleFilter, is_caption: bool) -> bytes:
    text = checked_text(record)
    if is_caption and not keep.min_caption <= len(text) <= keep.max_caption:
        raise BadSampleError(f"caption does not have {keep.min_caption} to {keep.max_caption} characters ({len(text)})")
    return text.encode()


def _read_image(image: ImageLocation | None, name: str) -> bytes:
    """Return the encoded bytes. name: of the part, for messages.

    Raises BadSampleError if there is no image, UnreadableImageError if the disk still fails after retries.
    """
    if image is None:
        raise BadSampleError(f"{name} is missing")
    try:
        return with_retries(lambda: read_image(image))
    except OSError as error:
        place = "" if error.filename is None else f": {error.filename}"
        raise UnreadableImageError(f"image file cannot be read ({error.strerror or error}{place})") from error


def as_stored(encoded: bytes, max_image_pixels: int) -> bytes:
    """Return an image as write_shards stores it: the same bytes if shards hold its format, else a new JPEG, so that a
    network sees a GIF or TIFF as in training. Raises BadSampleError."""
    if is_stored_format(encoded):  # its pixels are decoded by whoever needs them
        return encoded
    return _image(encoded, SampleFilter(max_image_pixels=max_image_pixels))[1]


def _image(encoded: bytes, keep: SampleFilter) -> tuple[str, bytes]:
    """Return extension and bytes to store: those of the source if possible, else a new JPEG."""
    if not encoded:
        raise BadSampleError("image is empty")
    with open_any(encoded, keep.max_image_pixels) as image:
        width, height = image.size
        if min(width, height) < keep.min_side:
            raise BadSampleError(f"image has a side below {keep.min_side} pixels")
        scale = min(1, keep.max_side / max(width, height)) if keep.max_side else 1
        extension = EXTENSIONS.get(str(image.format))
        try:
            if scale == 1 and extension is not None:
                image.draft(image.mode, (VERIFIED_SIDE, VERIFIED_SIDE))
                image.load()
                return extension, encoded
            pixels = _scaled(image, scale, is_converted=extension is None)
            pixels.info.pop("comment", None)  # of a GIF, which may be longer than that of a JPEG can be
            buffer = io.BytesIO()
            pixels.save(buffer, "JPEG", quality=keep.quality)
        except BadSampleError:
            raise
        except Exception as error:  # a decoder can raise anything for broken bytes
            raise BadSampleError(f"image cannot be decoded ({error})") from error
    return "jpg", buffer.getvalue()


def _scaled(image: ImageFile, scale: float, is_converted: bool) -> Image.Image:
    """Return the image as RGB, scaled down and upright."""
    size = (max(1, round(image.size[0] * scale)), max(1, round(image.size[1] * scale)))
    image.draft(image.mode, size)
    pixels = converted_to_rgb(image) if is_converted else to_rgb(image)
    return upright(pixels if scale == 1 else pixels.resize(size, Image.Resampling.BICUBIC), image)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member without time and owner, so that equal samples give equal shards."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
