"""What is wrong with data in the world, one test a row: converted, or skipped and counted with its name, or refused."""

import io
import os
import pickle
import shutil
import signal
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.samples import under_way
from data_pipeline.samples.sample import BadSample, Kind
from data_pipeline.shards.index import read_index
from data_pipeline.shards.scan import SampleReport
from data_pipeline.texts.tokenizer import EOS_ID
from tests.support.tiny_run import TinyData

Member = tuple[str, bytes]
SIZE = 16


def png(color: tuple[int, ...] = (10, 20, 30), mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, (SIZE, SIZE), color))


def encoded(image: Image.Image, form: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


GOOD = png()


def write_tar(path: Path, members: list[Member]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def indexed(folder: Path, kind: Kind = "pair", leave_out_damaged: bool = False) -> SampleReport:
    return index_shards(IndexOptions(kind, str(folder), num_workers=1, leave_out_damaged=leave_out_damaged))


def keys(folder: Path) -> list[str]:
    return [bytes(record["key"]).decode() for record in read_index(folder).records]


@pytest.fixture
def read(tiny_data: TinyData, tmp_path: Path) -> Callable[[list[Member]], StepBatch]:
    """Writes pairs into a shard and gives the batch of all of them, in any order, without augmentation."""

    def read_pairs(members: list[Member]) -> StepBatch:
        write_tar(tmp_path / "pairs" / "0.tar", members)
        indexed(tmp_path / "pairs")
        return dataset(tmp_path / "pairs", tiny_data)[0]

    return read_pairs


def dataset(folder: Path, tiny_data: TinyData) -> StepDataset:
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


# Archives


def test_a_truncated_tar_is_refused_or_left_out(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.png", GOOD), (f"{number}.txt", b"a circle")])
    for number in (0, 2):
        os.truncate(tmp_path / f"{number}.tar", 1024)
    with pytest.raises(ValueError, match=r"(?s)0.tar is no readable tar.*2.tar is no readable tar.*download it again"):
        indexed(tmp_path)
    report = indexed(tmp_path, leave_out_damaged=True)
    assert keys(tmp_path) == ["1"] and report.skipped["damaged shard"] == 2
    assert "0.tar is no readable tar" in report.examples["damaged shard"]


def test_a_corrupt_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [(f"{number}.txt", b"text") for number in range(6)])
    content = bytearray(path.read_bytes())
    content[3 * 1024 : 3 * 1024 + 512] = b"\xff" * 512
    path.write_bytes(content)
    with pytest.raises(ValueError, match="corrupt at byte 3072|is no readable tar"):
        indexed(tmp_path, "text")


def test_a_path_that_leads_out_of_the_archive_is_skipped_and_named(tmp_path: Path) -> None:
    names = ["../../etc/a.txt", "/etc/b.txt", "c/../../d.txt", "good.txt"]
    write_tar(tmp_path / "0.tar", [(name, b"text") for name in names])
    report = indexed(tmp_path, "text")
    assert keys(tmp_path) == ["good"]
    assert report.skipped == {"name leads out of the archive": 3}
    assert report.examples == {"name leads out of the archive": "0.tar:../../etc/a.txt"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(write_tar(tmp_path / "0.tar", [("good.txt", b"text")]), "a") as tar:
        link = tarfile.TarInfo("passwd.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    indexed(tmp_path, "text")
    assert keys(tmp_path) == ["good"]


def test_a_key_that_occurs_twice_keeps_its_first_sample(tmp_path: Path) -> None:
    members = [
        ("a.png", GOOD),
        ("a.txt", b"first"),
        ("b.png", GOOD),
        ("b.txt", b"b"),
        ("a.png", GOOD),
        ("a.txt", b"2nd"),
    ]
    write_tar(tmp_path / "0.tar", members)
    report = indexed(tmp_path)
    assert keys(tmp_path) == ["a", "b"]
    assert report.skipped == {
        "key has a second image, the first is kept": 1,
        "key has a second text, the first is kept": 1,
    }
    assert report.examples["key has a second text, the first is kept"] == "0.tar:a.txt"


def test_a_member_of_zero_bytes_and_a_missing_caption_are_skipped_and_named(tmp_path: Path) -> None:
    members = [("a.png", GOOD), ("a.txt", b""), ("b.png", b""), ("b.txt", b"b"), ("c.png", GOOD), ("d.png", GOOD)]
    write_tar(tmp_path / "0.tar", [*members, ("d.txt", b"d")])
    report = indexed(tmp_path)
    assert keys(tmp_path) == ["d"]
    assert report.skipped == {"text is missing or empty": 2, "image is missing or empty": 1}
    assert report.examples == {"text is missing or empty": "0.tar:a", "image is missing or empty": "0.tar:b"}


class Bomb:
    """Unpickling it makes a file."""

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


# Images


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


def test_an_image_is_turned_as_its_exif_data_say(read: Callable[..., StepBatch]) -> None:
    left_is_bright = np.zeros((SIZE, SIZE, 3), np.uint8)
    left_is_bright[:, : SIZE // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise: the left comes to the top
    content = encoded(Image.fromarray(left_is_bright), "jpeg", exif=exif, quality=95)
    (image,) = read([("a.jpg", content), ("a.txt", b"a circle")]).images.numpy()
    assert image[:, : SIZE // 2 - 1].min() > 200 and image[:, SIZE // 2 + 1 :].max() < 55


def huge_png() -> bytes:
    """A PNG whose header says 60,000 x 60,000 pixels."""
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
    assert batch.keys == ["a", "a"] and not batch.failure and not recwarn.list


@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a\x10\0\x10\0"]
)
def test_what_is_named_as_an_image_and_is_none_does_not_enter_the_index(content: bytes, tmp_path: Path) -> None:
    members = [("a.png", GOOD), ("a.txt", b"a circle"), ("b.jpg", content), ("b.txt", b"a square")]
    write_tar(tmp_path / "0.tar", members)
    report = indexed(tmp_path)
    assert keys(tmp_path) == ["a"]
    reason = "image is neither JPEG nor PNG nor WebP"
    assert report.skipped == {reason: 1, "image is missing or empty": 1}
    assert report.examples[reason] == f"0.tar:b.jpg (it begins with {content[:8]!r})"


# Texts


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


# Shards and their index


@pytest.fixture
def pairs(tiny_data: TinyData, tmp_path: Path) -> Path:
    """Shards of eight good pairs, to be damaged."""
    folder = tmp_path / "pairs"
    for shard in range(2):
        names = [f"{shard}{sample}" for sample in range(4)]
        write_tar(folder / f"{shard}.tar", [m for n in names for m in ((f"{n}.png", GOOD), (f"{n}.txt", b"a circle"))])
    indexed(folder)
    return folder


def test_bytes_that_differ_from_the_index_are_skipped_counted_and_named(pairs: Path, tiny_data: TinyData) -> None:
    content = bytearray((pairs / "0.tar").read_bytes())
    content[int(read_index(pairs).records[1]["image"]["offset"]) + 5] ^= 1
    (pairs / "0.tar").write_bytes(content)
    batch = dataset(pairs, tiny_data)[0]
    assert [str(bad) for bad in batch.bad_samples] == [f"{pairs / '0.tar'}:01: bytes differ from the index"]
    assert sorted(batch.keys) == ["00", "02", "02", "03", "10", "11", "12", "13"]


def test_a_member_larger_than_the_limit_is_skipped(pairs: Path, tiny_data: TinyData) -> None:
    config = DataConfig(
        (), (str(pairs),), (), tiny_data.folder / "text_tokenizer.spm", num_lanes=1, max_member_bytes=20
    )
    batch = StepDataset(config, SamplesPerStep(0, 1, 0), SIZE, seed=0)[0]
    assert {bad.reason for bad in batch.bad_samples} == {f"member exceeds max_member_bytes ({len(GOOD)} > 20)"}
    assert "without a good sample" in batch.failure


def test_a_shard_of_another_size_than_indexed_is_refused(pairs: Path, tiny_data: TinyData) -> None:
    opened = dataset(pairs, tiny_data)
    os.truncate(pairs / "1.tar", 2048)
    with pytest.raises(ValueError, match=r"1.tar is missing or not the one that was indexed; restore it"):
        dataset(pairs, tiny_data)
    assert f"shard {pairs / '1.tar'} is not the one that was indexed" in opened[0].failure  # found in mid-run


def test_a_shard_that_vanishes_in_mid_run_is_told_with_its_name(pairs: Path, tiny_data: TinyData) -> None:
    opened = dataset(pairs, tiny_data)
    (pairs / "1.tar").unlink()
    batch = opened[0]
    assert str(pairs / "1.tar") in batch.failure and "No such file" in batch.failure and len(batch.images) == 0


@pytest.mark.parametrize(
    "damage", ["records cut", "of another kind", "shard outside", "records outside", "a list", "negative"]
)
def test_a_damaged_index_is_refused(damage: str, pairs: Path, tiny_data: TinyData) -> None:
    header = (pairs / "index.json").read_text()
    if damage == "records cut":
        os.truncate(next(pairs.glob("samples-*.npy")), 300)
    changed, message = {
        "records cut": (header, "index of .* is damaged"),
        "of another kind": (header.replace('"pair"', '"text"'), "holds shards of kind 'text', not 'pair'"),
        "shard outside": (header.replace('"0.tar"', '"../0.tar"'), "lies outside of its folder"),
        "records outside": (header.replace('"samples-', '"../samples-'), "names '../samples-.*' as its records"),
        "a list": ("[1, 2]", "index of .* is damaged"),
        "negative": (
            header.replace('"num_samples": 4', '"num_samples": -4'),
            "shards.0.num_samples: Input should be greater",
        ),
    }[damage]
    (pairs / "index.json").write_text(changed)
    with pytest.raises(ValueError, match=message):
        dataset(pairs, tiny_data)


@pytest.mark.parametrize(
    "source", ["pipe:cat /etc/passwd", "pipe://cat", "file::pipe://x", "memory://x", "simplecache::s3://bucket/x"]
)
def test_commands_and_other_protocols_are_refused(source: str, pairs: Path, tiny_data: TinyData) -> None:
    with pytest.raises(ValueError, match="is neither a path nor a plain URL of s3"):
        DataConfig((), (source,), (), tiny_data.folder / "text_tokenizer.spm")
    header = (pairs / "index.json").read_text()
    (pairs / "index.json").write_text(header.replace('"shard_folder": ""', f'"shard_folder": "{source}"'))
    with pytest.raises(ValueError, match="is neither a path nor a plain URL of s3"):
        read_index(pairs)


# Processes


def test_a_worker_that_dies_is_told_with_the_sample_it_was_at(pairs: Path, tiny_data: TinyData) -> None:
    class DiesAtACaption(StepDataset):
        """Stands for a decoder that crashes."""

        def _ids(self, *arguments: object) -> list[int]:
            os.kill(os.getpid(), signal.SIGKILL)
            return []

    whole = dataset(pairs, tiny_data)
    whole.__class__ = DiesAtACaption
    batches: Iterator[StepBatch] = step_batches(whole, 5, 100, num_workers=1)
    batch = next(batches)
    source, sample = whole.kinds["pair"].sample(5, 0)
    name = whole.name("pair", source, sample)
    assert batch.failure == f"loader worker 0 died (killed by SIGKILL); it had last begun to read {name} of step 5"
    assert next(batches, None) is None


def test_a_sample_that_takes_too_long_is_told_and_batches_that_are_each_quick_are_not(
    pairs: Path, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowAtStep7(StepDataset):
        """Stands for a decoder that does not end."""

        def _batch(self, step: int, bad: list[BadSample]) -> StepBatch:
            end = time.process_time() + (60 if step == 7 else 0.1)
            batch = super()._batch(step, bad)
            while time.process_time() < end:
                pass
            return batch

    monkeypatch.setattr(under_way, "SAMPLE_CPU_SECONDS", 0.5)
    whole = dataset(pairs, tiny_data)
    whole.__class__ = SlowAtStep7
    *sound, batch = step_batches(whole, 0, 100, num_workers=1)
    assert len(sound) == 7 and not any(before.failure for before in sound)
    assert batch.failure.startswith("loader worker 0 took more than ")
    assert " s of CPU time for a sample; it had last begun to read " in batch.failure
    assert f"{pairs}/" in batch.failure and "of step 7; write the shards without it" in batch.failure


def test_an_error_that_nobody_foresaw_fails_the_batch_and_not_one_rank_alone(pairs: Path, tiny_data: TinyData) -> None:
    class Faulty(StepDataset):
        def _ids(self, *arguments: object) -> list[int]:
            raise KeyError("a fault of ours")

    whole = dataset(pairs, tiny_data)
    whole.__class__ = Faulty
    for num_workers in (0, 1):
        (batch, *_) = step_batches(whole, 0, 3, num_workers)
        assert "KeyError: 'a fault of ours'" in batch.failure and len(batch.images) == 0


def test_a_missing_folder_is_refused(pairs: Path, tiny_data: TinyData) -> None:
    shutil.rmtree(pairs)
    with pytest.raises(ValueError, match="does not exist; write it with"):
        read_index(pairs)
    config = DataConfig((), (), (), tiny_data.folder / "text_tokenizer.spm")
    with pytest.raises(ValueError, match="4 pairs per step need a source; set data.pairs"):
        StepDataset(config, SamplesPerStep(0, 4, 0), SIZE, seed=0)
    for entry in ("x=0", "x=-1"):
        with pytest.raises(ValueError, match="must be positive"):
            replace(config, pairs=(entry,))
