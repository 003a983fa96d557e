"""write_shards where disks fail and where two write one folder: one sentence, never a lost sample."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.files import retries
from data_pipeline.files.folder_lock import LOCK_NAME
from data_pipeline.samples.records import ImageLocation, Record, read_image
from data_pipeline.shards import writer as shard_writer
from data_pipeline.shards.index import read_index
from data_pipeline.shards.parts import PLAN_NAME, unfinished_parts
from data_pipeline.shards.writer import MAX_UNREADABLE, SampleFilter, is_in_split
from data_pipeline.write_shards import ShardOptions, _write, write_shards
from tests.data_pipeline.files.test_folder_lock import held

KEEP = SampleFilter(held_out_fraction=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(MAX_UNREADABLE + 5):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number:02d}.png")
    return folder


def options(images: Path, **changed: object) -> ShardOptions:
    return ShardOptions("image", str(images), images.parent / "out", keep=KEEP, num_workers=1, **changed)  # type: ignore[arg-type]


def break_disk(monkeypatch: pytest.MonkeyPatch, names: set[str], number: int = errno.EIO) -> None:
    """Reading these files fails, as on a disk with a bad sector."""

    def read(location: ImageLocation) -> bytes:
        if isinstance(location, Path) and location.name in names:
            raise OSError(number, os.strerror(number))
        return read_image(location)

    monkeypatch.setattr(shard_writer, "read_image", read)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_image_that_a_disk_fails_to_read_is_skipped_by_name(
    number: int, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, {"03.png"}, number)
    report = write_shards(options(images))
    assert report.num_kept == MAX_UNREADABLE + 4 and report.skipped == {"image file cannot be read": 1}
    example = report.examples["image file cannot be read"]
    assert "03" in example and os.strerror(number) in example


def test_the_caption_of_an_image_that_cannot_be_read_trains_no_tokenizer(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, {"03.png"})
    sound = Record("a", images / "04.png", "a caption")
    unreadable = replace(sound, image=images / "03.png")
    assert [is_in_split(record, 1e-9, "train") for record in (sound, unreadable)] == [True, False]


def test_a_disk_that_is_gone_ends_the_job_with_the_image(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_disk(monkeypatch, {f"{number:02d}.png" for number in range(2, 2 + MAX_UNREADABLE)})
    with pytest.raises(ValueError) as caught:
        write_shards(options(images))
    assert f"{MAX_UNREADABLE} images in a row cannot be read, the last " in str(caught.value)
    assert "11" in str(caught.value) and "Input/output error" in str(caught.value)
    monkeypatch.undo()
    assert write_shards(options(images)).num_kept == MAX_UNREADABLE + 5


def test_a_full_disk_is_named_and_keeps_no_partial_shard(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_shards(options(images))
    out = images.parent / "out"
    sentence = f"{out}/000000.tar cannot be written (No space left on device); free space and start again"
    assert str(caught.value) == sentence
    assert not list(out.glob("*.tar*"))
    monkeypatch.undo()
    assert write_shards(options(images)).num_kept == MAX_UNREADABLE + 5


def test_a_folder_that_cannot_be_made_is_named(images: Path) -> None:
    (images.parent / "out").write_text("a file")
    with pytest.raises(OSError, match=r"out.* cannot be written \(.*\); see to the file system and start again"):
        write_shards(options(images))


def test_names_that_are_no_utf_8_are_written_and_told_with_escapes(images: Path) -> None:
    sound = (images / "00.png").read_bytes()
    Path(os.fsdecode(os.fsencode(images) + b"/\xff\x1b[2J.png")).write_bytes(sound)
    Path(os.fsdecode(os.fsencode(images) + b"/\xfe\n.png")).write_bytes(b"no image")
    told = _write(options(images))
    assert f"{MAX_UNREADABLE + 6} samples in 1 shards" in told
    (line,) = [line for line in told.splitlines() if line.startswith("  skipped 1: image cannot be decoded")]
    assert line.isprintable() and "kept 1 exact copies of other samples; --deduplicate leaves them out" in told


def test_a_second_command_with_other_options_is_refused_while_the_first_has_no_shard_yet(images: Path) -> None:
    write_shards(options(images, part=0, num_parts=2))
    out = images.parent / "out"
    for path in out.glob("*.tar"):
        path.unlink()
    plan = (out / PLAN_NAME).read_text()
    with held(out / ".index" / LOCK_NAME, 1), pytest.raises(ValueError, match="is being written by another command"):
        write_shards(options(images, samples_per_shard=2, part=0, num_parts=2))
    assert (out / PLAN_NAME).read_text() == plan
    write_shards(options(images, samples_per_shard=2))  # nobody writes: what is left is of no worth
    assert read_index(out).num_samples == MAX_UNREADABLE + 5


def test_a_damaged_plan_is_told(images: Path) -> None:
    write_shards(options(images))
    (images.parent / "out" / PLAN_NAME).write_bytes(b"\xff\0")
    with pytest.raises(ValueError, match="is not a plan of write_shards"):
        unfinished_parts(images.parent / "out")


def test_exact_copies_are_counted_even_if_they_are_kept(images: Path) -> None:
    (images / "copy.png").write_bytes((images / "01.png").read_bytes())
    report = write_shards(options(images))
    assert (report.num_kept, report.num_copies) == (MAX_UNREADABLE + 6, 1)
    report = write_shards(options(images, deduplicate=True))
    assert (report.num_kept, report.num_copies) == (MAX_UNREADABLE + 5, 0)
    assert report.skipped == {"exact copy of another sample": 1}
