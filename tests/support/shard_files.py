"""Small shards and images made by hand."""

import io
import tarfile
from pathlib import Path

from PIL import Image

from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.samples.sample import Kind
from data_pipeline.shards.index import ShardIndex, read_index
from data_pipeline.shards.scan import SampleReport

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
    """Return the keys of an index, or of that in a folder."""
    index = shards if isinstance(shards, ShardIndex) else read_index(shards)
    return [bytes(record["key"]).decode() for record in index.records]
