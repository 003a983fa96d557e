"""Small handmade shards and images."""

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.files import retries
from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.samples.records import ImageLocation, read_image
from data_pipeline.samples.sample import Kind
from data_pipeline.shards import writer as shard_writer
from data_pipeline.shards.index import ShardIndex, read_index
from data_pipeline.shards.scan import SampleReport
from data_pipeline.shards.writer import MAX_UNREADABLE, SampleFilter
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.tiny_run import TinyData

Member = tuple[str, bytes]
"""Name and content."""
SIZE = 16
"""Side of the images in pixels."""


def encoded(image: Image.Image, form: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png(color: tuple[int, ...] = (10, 20, 30), mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, (SIZE, SIZE), color))


GOOD = png()


def write_tar(path: Path, members: list[Member]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def index_folder(folder: Path, kind: Kind = "pair", leave_out_damaged: bool = False) -> SampleReport:
    return index_shards(IndexOptions(kind, str(folder), num_workers=1, leave_out_damaged=leave_out_damaged))


def keys(shards: ShardIndex | Path) -> list[str]:
    """Return the keys of an index, or of the index in a folder."""
    index = shards if isinstance(shards, ShardIndex) else read_index(shards)
    return [bytes(record["key"]).decode() for record in index.records]


ALL = SampleFilter(held_out_fraction=0)
JPEG = b"\xff\xd8\xff and the rest of an image"


def written(kind: Kind, source: str | Path, out: Path, samples_per_shard: int = 1000, **options: object) -> ShardIndex:
    write_shards(ShardOptions(kind, str(source), out, samples_per_shard, num_workers=2, **options))  # type: ignore[arg-type]
    return read_index(out)


def write_pairs(folder: Path, captions: dict[str, str]) -> Path:
    """Write a source of JSON lines from image names and captions; each 8 x 8 image has its own color."""
    for number, name in enumerate(captions):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
    source = folder / "pairs.jsonl"
    source.write_text("".join(json.dumps({"image": n, "caption": c}) + "\n" for n, c in captions.items()))
    return source


def index_and_report(kind: Kind, folder: Path, **options: object) -> tuple[ShardIndex, SampleReport]:
    report = index_shards(IndexOptions(kind, str(folder), num_workers=1, **options))  # type: ignore[arg-type]
    return read_index(folder), report


def indexed(kind: Kind, folder: Path | str, **options: object) -> SampleReport:
    return index_shards(IndexOptions(kind, str(folder), num_workers=1, **options))  # type: ignore[arg-type]


def image_options(images: Path, **changed: object) -> ShardOptions:
    return ShardOptions("image", str(images), images.parent / "out", keep=ALL, num_workers=1, **changed)  # type: ignore[arg-type]


def break_disk(monkeypatch: pytest.MonkeyPatch, names: set[str], number: int = errno.EIO) -> None:
    """Make reads of these files fail, as on a disk with a bad sector."""

    def read(location: ImageLocation) -> bytes:
        if isinstance(location, Path) and location.name in names:
            raise OSError(number, os.strerror(number))
        return read_image(location)

    monkeypatch.setattr(shard_writer, "read_image", read)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0)


def pair_dataset(folder: Path, tiny_data: TinyData) -> StepDataset:
    config = DataConfig(
        images=(),
        pairs=(str(folder),),
        texts=(),
        text_tokenizer=tiny_data.folder / "text_tokenizer.spm",
        caption_length=8,
        num_lanes=1,
        min_crop_scale=1,
        color_jitter=0,
        horizontal_flip=False,
    )
    return StepDataset(config, SamplesPerStep(0, read_index(folder).num_samples, 0), SIZE, seed=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(MAX_UNREADABLE + 5):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def good_pairs(tiny_data: TinyData, tmp_path: Path) -> Path:
    """Return shards of eight good pairs, to be damaged."""
    folder = tmp_path / "pairs"
    for shard in range(2):
        names = [f"{shard}{sample}" for sample in range(4)]
        write_tar(folder / f"{shard}.tar", [m for n in names for m in ((f"{n}.png", GOOD), (f"{n}.txt", b"a circle"))])
    index_folder(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for number in range(2):
        members = [(f"{number}{i}.{e}", JPEG + bytes([i])) for i in range(3) for e in ("jpg", "txt")]
        write_tar(tmp_path / f"{number}.tar", members)
    indexed("pair", tmp_path)
    return tmp_path
