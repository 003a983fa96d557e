"""Bad data from a shard to a batch, one case per test: converted, or skipped, counted and named."""

import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.loading.batch import StepBatch
from data_pipeline.texts.tokenizer import EOS_ID
from tests.support.shard_files import GOOD, SIZE, Member, encoded, index_folder, pair_dataset, png, write_tar
from tests.support.tiny_run import TinyData


@pytest.fixture
def read(tiny_data: TinyData, tmp_path: Path) -> Callable[[list[Member]], StepBatch]:
    """Write pairs into a shard and return the batch of all of them, in any order, without augmentation."""

    def read_pairs(members: list[Member]) -> StepBatch:
        write_tar(tmp_path / "pairs" / "0.tar", members)
        index_folder(tmp_path / "pairs")
        return pair_dataset(tmp_path / "pairs", tiny_data)[0]

    return read_pairs


class Bomb:
    """A payload that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_and_compressed_members_are_never_opened(read: Callable[..., StepBatch], tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    members = [("a.png", GOOD), ("a.txt", b"a circle")]
    members += [(f"a.{extension}", bomb) for extension in ("pkl", "pickle", "pyd", "pth", "npy", "png.gz", "txt.gz")]
    batch = read([*members, ("b.pkl", bomb)])
    assert batch.keys == ["a"] and not batch.bad_samples and not batch.failure
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()


def cmyk() -> bytes:
    return encoded(Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0)), "jpeg")


def sixteen_bit() -> bytes:
    return encoded(Image.fromarray(np.full((SIZE, SIZE), 40_000, np.uint16)))


def palette_with_alpha() -> bytes:
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return encoded(image, transparency=1)


def animated(form: str) -> bytes:
    frames = [Image.new("RGB", (SIZE, SIZE), color) for color in ((200, 0, 0), (0, 200, 0))]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)


@pytest.mark.parametrize(
    ("content", "extension", "expected"),
    [
        (cmyk(), "jpg", (255, 0, 0)),
        (sixteen_bit(), "png", (156, 156, 156)),
        (palette_with_alpha(), "png", (255, 255, 255)),
        (png((9, 90), "LA"), "png", (168, 168, 168)),
        (animated("png"), "png", (200, 0, 0)),
        (animated("webp"), "webp", (200, 0, 0)),
        (encoded(Image.new("L", (SIZE, SIZE), 90), "jpeg"), "jpeg", (90, 90, 90)),
        (png(), "JPG", (10, 20, 30)),
    ],
    ids=["CMYK", "16 bit", "palette with alpha", "gray with alpha", "APNG", "animated WebP", "gray", "misnamed"],
)
def test_an_image_of_an_odd_kind_becomes_rgb(
    content: bytes, extension: str, expected: tuple[int, ...], read: Callable[..., StepBatch]
) -> None:
    batch = read([(f"a.{extension}", content), ("a.txt", b"a circle")])
    assert not batch.bad_samples and not batch.failure
    difference = batch.images[0].permute(1, 2, 0).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 2


def test_an_image_is_turned_by_its_exif_data(read: Callable[..., StepBatch]) -> None:
    left_is_bright = np.zeros((SIZE, SIZE, 3), np.uint8)
    left_is_bright[:, : SIZE // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise: the left becomes the top
    content = encoded(Image.fromarray(left_is_bright), "jpeg", exif=exif, quality=95)
    (image,) = read([("a.jpg", content), ("a.txt", b"a circle")]).images.numpy()
    assert image[:, : SIZE // 2 - 1].min() > 200 and image[:, SIZE // 2 + 1 :].max() < 55


def huge_png() -> bytes:
    """Return a PNG with 60,000 x 60,000 pixels in its header."""
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xd8\xff and no more of a JPEG", "image cannot be decoded"),
        (cmyk()[:-300], "image cannot be decoded"),
        (huge_png(), "image exceeds max_image_pixels (60000 x 60000 pixels)"),
    ],
    ids=["no image", "truncated", "60,000 x 60,000 pixels"],
)
def test_an_unusable_image_is_skipped_counted_and_named(
    content: bytes, reason: str, read: Callable[..., StepBatch], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    members = [("a.png", GOOD), ("a.txt", b"a circle"), ("b.jpg", content), ("b.txt", b"a square")]
    batch = read(members)
    (bad,) = batch.bad_samples
    assert (bad.shard, bad.key) == (str(tmp_path / "pairs" / "0.tar"), "b") and bad.reason.startswith(reason)
    assert batch.keys == ["a", "a"] and not batch.failure
    # Python 3.12 warns of every fork of a process with threads, as torch's loader makes it
    assert [one for one in recwarn.list if "use of fork()" not in str(one.message)] == []


def test_a_caption_of_a_million_characters_is_cut(read: Callable[..., StepBatch]) -> None:
    batch = read(
        [("a.png", GOOD), ("a.txt", b"a red circle " * 80_000), ("b.png", GOOD), ("b.txt", b"a red circle " * 9)]
    )
    assert not batch.bad_samples
    assert batch.caption_ids[0].tolist() == batch.caption_ids[1].tolist() and batch.caption_ids[0, -1] == EOS_ID


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (b"caf\xe9 noir", "text is not UTF-8"),
        (b" \n ", "text has no visible character"),
        (b"a\0c\0", "text holds a NUL (at character 1)"),
    ],
    ids=["latin-1", "blank", "UTF-16 without a mark"],
)
def test_an_unusable_caption_is_skipped_counted_and_named(
    caption: bytes, reason: str, read: Callable[..., StepBatch]
) -> None:
    batch = read([("a.png", GOOD), ("a.txt", b"a circle"), ("b.png", GOOD), ("b.txt", caption)])
    assert [(bad.key, bad.reason) for bad in batch.bad_samples] == [("b", reason)]
    assert batch.keys == ["a", "a"] and not batch.failure
