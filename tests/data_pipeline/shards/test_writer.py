"""Records that are stored, converted or skipped by reason, and disks that fail meanwhile."""

import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_pipeline.samples.scenes import Split
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.writer import MAX_UNREADABLE, SampleFilter
from data_pipeline.write_shards import ShardOptions, _write, write_shards
from tests.support.shard_files import ALL, break_disk, image_options, keys, write_pairs, written
from tests.support.tiny_run import TinyData


def test_the_split_follows_the_content_so_that_all_captions_of_an_image_fall_on_one_side(tmp_path: Path) -> None:
    lines = []
    for i in range(20):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
        lines += [json.dumps({"image": f"{i}.png", "caption": f"image {i} caption {n}"}) for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    sides: dict[str, set[str]] = {}
    left_out = 0
    splits: tuple[Split, ...] = ("train", "held_out")
    for split in splits:
        keep = SampleFilter(held_out_fraction=0.4)
        report = write_shards(
            ShardOptions("pair", str(tmp_path / "pairs.jsonl"), tmp_path / split, split=split, keep=keep)
        )
        left_out += sum(count for reason, count in report.skipped.items() if "writes it" in reason)
        index = read_index(tmp_path / split)
        reader = SampleReader(index, 1 << 20)
        texts = [reader.text(i) for i in range(index.num_samples)]
        sides[split] = {text.split()[1] for text in texts}
        assert len(texts) == 3 * len(sides[split])
    assert left_out == 60
    assert not sides["train"] & sides["held_out"] and len(sides["train"] | sides["held_out"]) == 20


def test_an_image_with_several_captions_is_one_image_and_several_pairs(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "caption": caption} for caption in ("one", "two")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert keys(written("image", tmp_path / "pairs.jsonl", tmp_path / "images", keep=ALL)) == ["a"]
    assert keys(written("pair", tmp_path / "pairs.jsonl", tmp_path / "pairs", keep=ALL)) == ["a", "a-2"]


def test_names_that_give_the_same_key_stay_two_samples(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, {"a_b.png": "one", "a.b.png": "two", "a_b.webp": "three"})
    index = written("pair", source, tmp_path / "out", keep=ALL)
    assert keys(index) == ["a_b", "a_b-2", "a_b-3"]
    assert len(list(webdataset.WebDataset([str(tmp_path / "out" / "000000.tar")], shardshuffle=False))) == 3


def test_skipped_samples_are_counted_by_reason_and_named(tmp_path: Path) -> None:
    captions = {"good.png": "a good one", "short.png": "x", "empty.png": " ", "small.png": "too small an image"}
    source = write_pairs(tmp_path, captions)
    Image.new("RGB", (8, 4)).save(tmp_path / "small.png")
    lines: list[dict[str, str | None]] = [
        {"image": "missing.png", "caption": "gone"},
        {"image": "text.png", "caption": "no image"},
    ]
    lines += [{"image": "zero.png", "caption": "no bytes"}, {"image": "good.png", "caption": None}]
    lines += [{"image": "good.png", "caption": "x" * 101}, {"image": "cut.jpg", "caption": "breaks off"}]
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "zero.png").touch()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with source.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    keep = SampleFilter(min_side=8, min_caption=2, max_caption=100, held_out_fraction=0)
    report = write_shards(ShardOptions("pair", str(source), tmp_path / "out", keep=keep))
    assert report.num_kept == 1 and keys(read_index(tmp_path / "out")) == ["good"]
    assert dict(report.skipped) == {
        "caption does not have 2 to 100 characters": 2,
        "text is missing or empty": 1,
        "line has no text in field 'caption'": 1,
        "image has a side below 8 pixels": 1,
        "image file does not exist": 1,
        "image cannot be decoded": 2,
        "image is empty": 1,
    }
    assert report.examples["image file does not exist"] == f"{source}:5 ({tmp_path / 'missing.png'})"


def test_large_images_are_scaled_down_upright_and_small_ones_stay_as_they_are(tmp_path: Path) -> None:
    x = np.linspace(0, 255, 300).astype(np.uint8)
    stored = Image.fromarray(np.broadcast_to(x[None, :, None], (200, 300, 3)).copy())  # bright on the right
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise: bright at the bottom
    stored.save(tmp_path / "large.jpg", exif=exif)
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    index = written("image", tmp_path, tmp_path / "out", keep=SampleFilter(max_side=120, held_out_fraction=0))
    reader = SampleReader(index, 1 << 20)
    large = Image.open(io.BytesIO(reader.image_bytes(0)))
    assert large.format == "JPEG" and large.size == (80, 120) and not large.getexif()
    pixels = np.asarray(large.convert("L")).astype(int)
    assert pixels[110:].mean() > 220 > 40 > pixels[:10].mean()
    assert reader.image_bytes(1) == (tmp_path / "small.png").read_bytes()


def test_a_file_that_is_not_text_is_skipped_and_its_neighbors_stay(tiny_data: TinyData, tmp_path: Path) -> None:
    texts = ["a red circle.", "caf\u00e9 \ufffd is valid.", "\ud83d alone", "", "a blue square."]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    options = ShardOptions("text", str(tmp_path / "texts.jsonl"), tmp_path / "out", keep=ALL, text_tokenizer=tokenizer)
    report = write_shards(options)
    assert report.skipped == {"text is not UTF-8": 1, "text is missing or empty": 1}
    text = SampleReader(read_index(tmp_path / "out"), 1 << 20).text(0)
    assert text == "a red circle. caf\u00e9 \ufffd is valid. a blue square."


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_image_that_a_disk_fails_to_read_is_skipped_by_name(
    number: int, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, {"03.png"}, number)
    report = write_shards(image_options(images))
    assert report.num_kept == MAX_UNREADABLE + 4 and report.skipped == {"image file cannot be read": 1}
    example = report.examples["image file cannot be read"]
    assert "03" in example and os.strerror(number) in example


def test_a_disk_that_is_gone_ends_the_job_with_the_image(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_disk(monkeypatch, {f"{number:02d}.png" for number in range(2, 2 + MAX_UNREADABLE)})
    with pytest.raises(ValueError) as caught:
        write_shards(image_options(images))
    assert f"{MAX_UNREADABLE} images in a row cannot be read, the last " in str(caught.value)
    assert "11" in str(caught.value) and "Input/output error" in str(caught.value)
    monkeypatch.undo()
    assert write_shards(image_options(images)).num_kept == MAX_UNREADABLE + 5


def test_a_full_disk_is_named_and_keeps_no_partial_shard(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_shards(image_options(images))
    out = images.parent / "out"
    sentence = f"{out}/000000.tar cannot be written (No space left on device); free space and start again"
    assert str(caught.value) == sentence
    assert not list(out.glob("*.tar*"))
    monkeypatch.undo()
    assert write_shards(image_options(images)).num_kept == MAX_UNREADABLE + 5


def test_names_that_are_not_utf_8_are_written_and_reported_with_escapes(images: Path) -> None:
    sound = (images / "00.png").read_bytes()
    Path(os.fsdecode(os.fsencode(images) + b"/\xff\x1b[2J.png")).write_bytes(sound)
    Path(os.fsdecode(os.fsencode(images) + b"/\xfe\n.png")).write_bytes(b"no image")
    printed = _write(image_options(images))
    assert f"{MAX_UNREADABLE + 6} samples in 1 shards" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  skipped 1: image cannot be decoded")]
    assert line.isprintable() and "kept 1 exact copies of other samples; --deduplicate skips them" in printed
