"""One shard from a block of records: read, filter, re-encode, write; a report of what was left out and why.

A block is a fixed range of a source, so a shard depends on nothing but its block: shards are written by any number of
processes in any order, and after a kill those that are complete are kept. A shard is complete when its scan is there.
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
from data_pipeline.images.decoding import to_rgb, upright
from data_pipeline.samples.records import Record, read_image
from data_pipeline.samples.sample import BadSampleError, Kind, check_text
from data_pipeline.samples.scenes import Split
from data_pipeline.settings.ranges import ByteCount, CountOrZero, Part, check_ranges
from data_pipeline.shards.members import record_dtype
from data_pipeline.shards.scan import SampleReport, ShardScan, file_origin, save_scan, scan_shard
from data_pipeline.workers.under_way import at_sample

MAX_UNREADABLE = 10
"""Images in a row that a file system fails to read, after retries, before it is taken for gone."""
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
OTHER_SIDE: dict[Split, str] = {
    "train": "held out, --split held_out writes it",
    "held_out": "not held out, --split train writes it",
}
"""What becomes of a sample that the split leaves to the other side."""
VERIFIED_SIDE = 64
"""Images are decoded once at about this size, which JPEG gives cheaply, to find those that break off."""


class UnreadableImageError(BadSampleError):
    """A file system does not give the bytes of an image. One file may be damaged; if many are, the disk is gone."""


@dataclass(frozen=True)
class SampleFilter:
    """Which samples are kept, and how images are stored."""

    min_side: CountOrZero = 0
    """Images whose shorter side is below so many pixels are left out."""
    max_side: CountOrZero = 0
    """Images whose longer side is above so many pixels are scaled down and encoded again; 0: never."""
    quality: Annotated[int, Interval(ge=1, le=100)] = 90
    """JPEG quality where images are encoded again."""
    min_caption: CountOrZero = 1
    """Captions of fewer characters are left out."""
    max_caption: CountOrZero = 10_000
    """Captions of more characters are left out."""
    max_image_pixels: ByteCount = 64_000_000
    """Larger images are left out, told from their headers."""
    held_out_fraction: Part = 0.1
    """Part that is held out, by a hash of the content: of the image, or of the text where there is none. Of drawn
    scenes the composition decides instead."""

    def __post_init__(self) -> None:
        check_ranges(self)


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
    """Write one shard and its scan, complete or absent.

    split: the side of the held-out fraction to write; None: all. block: digest of what the records were made from.
    report: what was left out before. Records without a sample to keep give a scan alone.
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
            scan = ShardScan(kind, "", block, 0, "", np.empty(0, record_dtype(1)), np.empty(0, np.uint64), report)
        save_scan(scan, scan_path)
    except OSError as error:
        raise cannot_be_written(path, error) from error
    finally:
        partial.unlink(missing_ok=True)  # a full disk needs the space


def _write_tar(
    partial: Path,
    shard: str,
    records: Iterable[Record],
    kind: Kind,
    keep: SampleFilter,
    split: Split | None,
    report: SampleReport,
) -> int:
    """Write the samples that are kept; the others go to the report. Returns how many were written."""
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
                        f"{MAX_UNREADABLE} images in a row cannot be read, the last {name}{error.details}; see to "
                        "their file system, and the same command goes on"
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
    """The key, or with a number where names as different as a/b.jpg and a_b.png give the same."""
    numbered = (f"{key}-{number}" for number in itertools.count(2))
    return key if key not in used else next(candidate for candidate in numbered if candidate not in used)


def sample_members(record: Record, kind: Kind, keep: SampleFilter, split: Split | None) -> dict[str, bytes] | None:
    """The files of a sample, by extension; None where it belongs to the other side of the split.

    Raises BadSampleError, saying why, for a sample that is not kept.
    """
    members: dict[str, bytes] = {}
    if kind != "image":
        members["txt"] = _text(record, keep, is_caption=kind == "pair")
    if kind != "text":
        if record.problem:
            raise BadSampleError(record.problem)
        if record.image is None:
            raise BadSampleError("image is missing")
        encoded = _read_image(record)
        if split is not None and is_held_out(encoded, keep.held_out_fraction) != (split == "held_out"):
            return None
        extension, encoded = _image(encoded, keep)
        members = {extension: encoded, **members}
    if record.metadata:
        members["json"] = json.dumps(record.metadata).encode()
    return members


def is_in_split(record: Record, fraction: float, split: Split) -> bool:
    """Does a record belong to this part of its source? A missing image is on no side."""
    if fraction == 0:
        return split == "train"
    try:
        content = (record.text or "").encode(errors="surrogatepass") if record.image is None else _read_image(record)
    except BadSampleError:
        return False
    return is_held_out(content, fraction) == (split == "held_out")


def is_held_out(content: bytes, fraction: float) -> bool:
    """By content, so that exact copies, and all captions of an image, fall on one side on every machine."""
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") < fraction * 2**32


def checked_text(record: Record) -> str:
    """Raises BadSampleError where a record has no text."""
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
        raise BadSampleError(f"caption is not of {keep.min_caption} to {keep.max_caption} characters ({len(text)})")
    return text.encode()


def _read_image(record: Record) -> bytes:
    """The encoded bytes. Raises UnreadableImageError where the disk still fails after several trials."""
    image = record.image
    assert image is not None
    try:
        return with_retries(lambda: read_image(image))
    except OSError as error:
        place = "" if error.filename is None else f": {error.filename}"
        raise UnreadableImageError(f"image file cannot be read ({error.strerror or error}{place})") from error


def _image(encoded: bytes, keep: SampleFilter) -> tuple[str, bytes]:
    """Extension and bytes to store: those of the source wherever they can stay."""
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
        except BadSampleError:
            raise
        except Exception as error:  # a decoder fed with broken bytes raises anything
            raise BadSampleError(f"image cannot be decoded ({error})") from error
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=keep.quality)
    return "jpg", buffer.getvalue()


def _scaled(image: ImageFile, scale: float, is_converted: bool) -> Image.Image:
    """RGB, scaled down and upright."""
    size = (max(1, round(image.size[0] * scale)), max(1, round(image.size[1] * scale)))
    image.draft(image.mode, size)
    pixels = converted_to_rgb(image) if is_converted else to_rgb(image)
    return upright(pixels if scale == 1 else pixels.resize(size, Image.Resampling.BICUBIC), image)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without time and owner, so that equal samples give equal shards."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
