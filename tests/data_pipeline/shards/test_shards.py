"""Writing and indexing shards; webdataset reads what we write."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import webdataset
from PIL import Image

from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.samples.sample import Kind
from data_pipeline.samples.scenes import Split, draw_samples
from data_pipeline.shards.index import ShardIndex, read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.scan import SampleReport
from data_pipeline.shards.writer import SampleFilter
from data_pipeline.sources import SourceOptions, read_records
from data_pipeline.texts.tokenizer import TextTokenizer
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.launch import ROOT
from tests.support.tiny_run import TEXT_LENGTH, TinyData

ALL = SampleFilter(held_out_fraction=0)


def written(kind: Kind, source: str | Path, out: Path, samples_per_shard: int = 1000, **options: object) -> ShardIndex:
    write_shards(ShardOptions(kind, str(source), out, samples_per_shard, num_workers=2, **options))  # type: ignore[arg-type]
    return read_index(out)


def indexed(kind: Kind, folder: Path, **options: object) -> tuple[ShardIndex, SampleReport]:
    report = index_shards(IndexOptions(kind, str(folder), num_workers=1, **options))  # type: ignore[arg-type]
    return read_index(folder), report


def keys(index: ShardIndex) -> list[str]:
    return [bytes(record["key"]).decode() for record in index.records]


def write_pairs(folder: Path, captions: dict[str, str]) -> Path:
    """A source of JSON lines: image name to caption, an 8 x 8 image of its own color each."""
    for number, name in enumerate(captions):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
    source = folder / "pairs.jsonl"
    source.write_text("".join(json.dumps({"image": n, "caption": c}) + "\n" for n, c in captions.items()))
    return source


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("source", ["scenes:", "scenes:\u00b2", "scenes:3:-1", "scenes:" + "9" * 5000, "scenes:1:2:3"])
def test_scenes_are_asked_for_by_numbers(source: str) -> None:
    with pytest.raises(ValueError, match="must read scenes:COUNT or scenes:COUNT:SEED"):
        next(read_records("image", source, SourceOptions()))


def test_what_is_written_is_what_was_drawn_and_what_webdataset_reads(tmp_path: Path) -> None:
    index = written("pair", "scenes:25", tmp_path / "pairs", samples_per_shard=10)
    assert [shard.num_samples for shard in index.shards] == [10, 10, 5]
    drawn = list(draw_samples("pair", 25))
    reader = SampleReader(index, 1 << 20)
    ours = [(reader.key(i), reader.image_bytes(i), reader.text(i)) for i in range(25)]
    assert ours == [(s.key, s.image, s.text) for s in drawn]

    urls = [str(tmp_path / "pairs" / shard.name) for shard in index.shards]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [(s["__key__"], s["png"], s["txt"].decode()) for s in theirs] == ours
    assert json.loads(theirs[3]["json"]) == drawn[3].metadata


def test_equal_sources_give_equal_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    fingerprints = []
    for number, (source, num_workers) in enumerate([("scenes:25", 1), ("scenes:25", 3), ("scenes:25:1", 1)]):
        out = tmp_path / str(number)
        write_shards(ShardOptions("image", source, out, samples_per_shard=4, num_workers=num_workers))
        fingerprints.append(read_index(out).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_held_out_compositions_never_occur_in_training() -> None:
    held_out = {s.metadata["composition"] for s in draw_samples("pair", 300, split="held_out")}
    kinds: tuple[Kind, ...] = ("image", "pair", "text")
    for kind in kinds:
        assert not held_out & {s.metadata["composition"] for s in draw_samples(kind, 1000)}


def test_passages_are_whole_sentences_of_about_text_length(tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    reader = SampleReader(read_index(tiny_data.folder / "texts"), 1 << 20)
    passages = [reader.text(i) for i in range(reader.index.num_samples)]
    lengths = [len(tokenizer.encode(passage)) + 2 for passage in passages]
    sentences = [str(record.text) for record in read_records("text", "scenes:80", SourceOptions())]
    assert " ".join(passages) == " ".join(sentences)
    longest_sentence = max(len(tokenizer.encode(sentence)) + 2 for sentence in sentences)
    assert max(lengths) <= max(TEXT_LENGTH, longest_sentence)


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


def test_what_is_left_out_is_named_by_its_place_in_the_source_with_all_that_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), (len(list(folder.iterdir())), 0, 0)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("R&amp;D")
    (folder / "b.png").write_bytes(b"<html>")
    (folder / "c.txt").write_bytes(b"nul \0")
    out = tmp_path / "out"
    options = SourceOptions(unescape_html=True)
    report = write_shards(ShardOptions("pair", str(folder), out, keep=ALL, columns=options, num_workers=1))
    assert report.examples == {
        "image cannot be decoded": f"{folder / 'b.png'} (none of JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF)",
        "caption is not text": f"{folder / 'c.txt'} (byte 4 is NUL)",
    }
    assert SampleReader(read_index(out), 1 << 20).text(0) == "R&D"


def test_texts_are_left_out_by_their_place_and_a_tar_of_them_is_read(tiny_data: TinyData, tmp_path: Path) -> None:
    write_tar(tmp_path / "texts.tar", [("a.txt", b"a red circle"), ("b.txt", b"caf\xe9"), ("c.txt", b"x" * 40 + b"\0")])
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    options = ShardOptions(
        "text", str(tmp_path / "texts.tar"), tmp_path / "out", keep=ALL, text_tokenizer=tokenizer, num_workers=1
    )
    report = write_shards(options)
    assert report.num_kept == 1 and report.examples == {
        "text is not UTF-8": f"{tmp_path / 'texts.tar'}: b.txt:1 (at character 3)",
        "file is not text": f"{tmp_path / 'texts.tar'}: c.txt (byte 40 is NUL)",
    }


def test_a_folder_that_was_begun_before_an_option_came_goes_on(tmp_path: Path) -> None:
    options = ShardOptions("image", "scenes:4", tmp_path / "out", 2, num_workers=1)
    write_shards(options)
    plan = (tmp_path / "out" / "plan.txt").read_text()
    assert "unescape_html" not in plan and "image_splits" not in plan
    assert write_shards(options).num_kept == 4
    with pytest.raises(ValueError, match="unescape_html .*True"):
        write_shards(replace(options, columns=SourceOptions(unescape_html=True)))


def test_names_that_give_the_same_key_stay_two_samples(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, {"a_b.png": "one", "a.b.png": "two", "a_b.webp": "three"})
    index = written("pair", source, tmp_path / "out", keep=ALL)
    assert keys(index) == ["a_b", "a_b-2", "a_b-3"]
    assert len(list(webdataset.WebDataset([str(tmp_path / "out" / "000000.tar")], shardshuffle=False))) == 3


def test_what_is_left_out_is_counted_by_reason_and_named(tmp_path: Path) -> None:
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
        "caption is not of 2 to 100 characters": 2,
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
    exif[0x0112] = 6  # to be turned a quarter clockwise: bright at the bottom
    stored.save(tmp_path / "large.jpg", exif=exif)
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    index = written("image", tmp_path, tmp_path / "out", keep=SampleFilter(max_side=120, held_out_fraction=0))
    reader = SampleReader(index, 1 << 20)
    large = Image.open(io.BytesIO(reader.image_bytes(0)))
    assert large.format == "JPEG" and large.size == (80, 120) and not large.getexif()
    pixels = np.asarray(large.convert("L")).astype(int)
    assert pixels[110:].mean() > 220 > 40 > pixels[:10].mean()
    assert reader.image_bytes(1) == (tmp_path / "small.png").read_bytes()


def test_of_exact_copies_one_is_kept_across_shards_and_parts(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, {f"{i}.png": f"number {i}" for i in range(8)})
    for copy, original in ((5, 1), (7, 1), (6, 2)):
        (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{original}.png").read_bytes())
    index = written("image", source, tmp_path / "images", samples_per_shard=2, keep=ALL, deduplicate=True)
    assert keys(index) == ["0", "1", "2", "3", "4"]
    pairs = written("pair", source, tmp_path / "pairs", samples_per_shard=2, keep=ALL, deduplicate=True)
    assert pairs.num_samples == 8  # other captions, other samples
    options = ShardOptions("image", str(source), tmp_path / "parts", 2, keep=ALL, deduplicate=True, num_parts=2)
    reports = [write_shards(replace(options, part=part)) for part in range(2)]
    assert keys(read_index(tmp_path / "parts")) == keys(index)
    assert reports[1].skipped == {"exact copy of another sample": 3}
    indexed("image", tmp_path / "parts")
    assert read_index(tmp_path / "parts").num_samples == 8


def test_the_parts_of_a_job_array_merge_into_the_index_that_one_process_writes(tmp_path: Path) -> None:
    whole = written("pair", "scenes:23", tmp_path / "whole", samples_per_shard=4)
    options = [ShardOptions("pair", "scenes:23", tmp_path / "parts", 4, part=i, num_parts=3) for i in range(3)]
    for part in (2, 0):
        write_shards(options[part])
    with pytest.raises(ValueError, match="part 1 is missing"):
        indexed("pair", tmp_path / "parts")
    assert not (tmp_path / "parts" / "index.json").exists()
    write_shards(options[1])
    assert read_index(tmp_path / "parts").fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match="was started with different settings"):
        write_shards(replace(options[1], num_parts=4))


def test_after_a_kill_the_same_command_goes_on_with_the_shards_that_are_missing(tmp_path: Path) -> None:
    arguments = ["pair", "scenes:600", str(tmp_path / "killed"), "--samples-per-shard", "20", "--num-workers", "2"]
    command = [sys.executable, "-m", "data_pipeline.write_shards", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    while len(list((tmp_path / "killed").glob("*.tar"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.tar")}
    assert 5 <= len(kept) < 30
    with pytest.raises(ValueError, match="write_shards has not finished"):
        indexed("pair", tmp_path / "killed")
    again = written("pair", "scenes:600", tmp_path / "killed", samples_per_shard=20)
    assert again.fingerprint == written("pair", "scenes:600", tmp_path / "whole", samples_per_shard=20).fingerprint
    unchanged = [path for path, modified in kept.items() if path.stat().st_mtime_ns == modified]
    assert len(unchanged) >= len(kept) - 2  # a kill may come between a shard and its scan, once a process


def test_a_source_that_has_changed_is_written_as_it_is_now(tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    for number in (1, 3, 5, 7, 9, 11):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(source / f"{number:02d}.png")
    written("image", source, tmp_path / "out", samples_per_shard=2, keep=ALL)
    unchanged = (tmp_path / "out" / "000002.tar").stat().st_ino
    Image.new("RGB", (8, 8), (4, 0, 0)).save(source / "04.png")
    (source / "07.png").unlink()
    index = written("image", source, tmp_path / "out", samples_per_shard=2, keep=ALL)
    assert keys(index) == ["01", "03", "04", "05", "09", "11"]
    assert [SampleReader(index, 1 << 20).key(i) for i in range(6)] == keys(index)
    assert (tmp_path / "out" / "000002.tar").stat().st_ino == unchanged
    for name in ("09", "11"):
        (source / f"{name}.png").unlink()
    assert keys(written("image", source, tmp_path / "out", samples_per_shard=2, keep=ALL)) == ["01", "03", "04", "05"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["000000.tar", "000001.tar"]


def test_parts_that_have_not_seen_the_same_source_are_not_merged(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, {f"{i}.png": f"number {i}" for i in range(8)})
    options = ShardOptions("image", str(source), tmp_path / "parts", 2, keep=ALL, num_parts=2)
    write_shards(options)
    write_pairs(tmp_path, {f"{i}.png": f"number {i}" for i in range(9)})
    with pytest.raises(ValueError, match="has changed between the parts"):
        write_shards(replace(options, part=1))
    write_shards(options)
    assert read_index(tmp_path / "parts").num_samples == 9


def test_a_mistaken_first_command_does_not_block_the_folder(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, {"a.png": "one"})
    with pytest.raises(ValueError, match="has no text in field 'title'|text is missing"):
        written("pair", source, tmp_path / "out", keep=ALL, columns=SourceOptions(image_column="title"))
    nowhere = SourceOptions(image_root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"skipped 1: image file does not exist; the first: .*nowhere/a.png"):
        written("pair", source, tmp_path / "out", keep=ALL, columns=nowhere)
    assert written("pair", source, tmp_path / "out", keep=ALL).num_samples == 1
    with pytest.raises(ValueError, match=r"different settings \(image_root was None, is now /"):
        written("pair", source, tmp_path / "out", keep=ALL, columns=nowhere)
    with pytest.raises(ValueError, match="held_out_fraction 2 must be a number from 0 to 1"):
        SampleFilter(held_out_fraction=2)


def test_what_a_crash_has_left_of_a_scan_is_written_again(tmp_path: Path) -> None:
    index = written("pair", "scenes:6", tmp_path, samples_per_shard=2)
    os.truncate(tmp_path / ".index" / "000001.npz", 0)
    assert written("pair", "scenes:6", tmp_path, samples_per_shard=2).fingerprint == index.fingerprint
    os.truncate(tmp_path / ".index" / "000002.npz", 100)
    assert indexed("pair", tmp_path)[0].fingerprint == index.fingerprint


def test_writers_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    arguments = ["pair", "scenes:100000", str(tmp_path / "out"), "--samples-per-shard", "500", "--num-workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "data_pipeline.write_shards", *arguments], cwd=ROOT)
    while len(workers := psutil.Process(process.pid).children()) < 2 or not list((tmp_path / "out").glob("*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=60)
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert len(gone) == 2 and not alive


def test_sentences_that_are_too_long_are_cut_and_nothing_is_lost(tiny_data: TinyData, tmp_path: Path) -> None:
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    words = [f"word{number}" for number in range(300)]
    unbroken = "".join(words)
    (tmp_path / "texts.txt").write_text(f"{' '.join(words)}\n{unbroken}\n")
    index = written(
        "text", tmp_path / "texts.txt", tmp_path / "out", keep=ALL, text_tokenizer=tokenizer, text_length=24
    )
    reader = SampleReader(index, 1 << 20)
    passages = [reader.text(i) for i in range(index.num_samples)]
    assert "".join(passages).replace(" ", "") == unbroken * 2
    assert max(len(TextTokenizer(tokenizer).encode(passage)) for passage in passages) <= 22


def test_a_text_that_is_no_text_is_skipped_and_its_neighbours_stay(tiny_data: TinyData, tmp_path: Path) -> None:
    texts = ["a red circle.", "caf\u00e9 \ufffd is valid.", "\ud83d alone", "", "a blue square."]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    options = ShardOptions("text", str(tmp_path / "texts.jsonl"), tmp_path / "out", keep=ALL, text_tokenizer=tokenizer)
    report = write_shards(options)
    assert report.skipped == {"text is not UTF-8": 1, "text is missing or empty": 1}
    text = SampleReader(read_index(tmp_path / "out"), 1 << 20).text(0)
    assert text == "a red circle. caf\u00e9 \ufffd is valid. a blue square."


def test_shards_of_others_are_indexed_in_place_or_elsewhere_at_any_depth(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "png")
    theirs = tmp_path / "theirs"
    (theirs / "part0").mkdir(parents=True)
    with webdataset.TarWriter(str(theirs / "part0" / "00000.tar")) as writer:
        writer.write({"__key__": "a/000000001", "jpg": png.getvalue(), "txt": "one", "json": {"width": 4}})
        writer.write({"__key__": "a/000000002", "jpg": png.getvalue(), "json": {"width": 4}})  # has no caption
    before = (theirs / "part0" / "00000.tar").read_bytes()
    index, report = indexed("pair", theirs)
    assert keys(index) == ["a/000000001"] and index.shards[0].name == "part0/00000.tar"
    assert report.skipped == {"text is missing or empty": 1}
    first = "00000.tar:a/000000002 (--caption-key names its field of the .json)"
    assert report.lines() == [f"  skipped 1: text is missing or empty; the first: {first}"]
    assert indexed("image", theirs)[0].num_samples == 2
    index_shards(IndexOptions("pair", str(theirs), out=tmp_path / "index"))
    elsewhere = read_index(tmp_path / "index")
    assert elsewhere.fingerprint == index.fingerprint
    assert SampleReader(elsewhere, 1 << 20).text(0) == "one"
    assert (theirs / "part0" / "00000.tar").read_bytes() == before


def test_only_new_and_changed_shards_are_read_again(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.txt", b"text")])
    indexed("text", tmp_path)
    scans = sorted((tmp_path / ".index").glob("*.npz"))
    before = [path.stat().st_mtime_ns for path in scans]
    write_tar(tmp_path / "1.tar", [("1.txt", b"text"), ("new.txt", b"more")])
    write_tar(tmp_path / "3.tar", [("3.txt", b"text")])
    assert keys(indexed("text", tmp_path)[0]) == ["0", "1", "new", "2", "3"]
    after = [path.stat().st_mtime_ns for path in scans]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_members_are_grouped_as_webdataset_groups_them(tmp_path: Path) -> None:
    names = ["v1.0/a.jpg", "v1.0/a.txt", "v1.0/b.seg.jpg", "v1.0/b.txt", "c.txt", "c.JPG"]
    write_tar(tmp_path / "0.tar", [(name, b"\xff\xd8\xff") for name in names])
    assert keys(indexed("pair", tmp_path)[0]) == ["v1.0/a", "c"]


def test_a_key_of_any_length_leaves_the_index_small(tmp_path: Path) -> None:
    names = ["x" * 5000 + "1", "x" * 5000 + "2"]
    write_tar(tmp_path / "0.tar", [(f"{name}.txt", b"abc") for name in names])
    index = indexed("text", tmp_path)[0]
    assert len(set(keys(index))) == 2 and index.records.dtype["key"].itemsize == 200


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "does not exist"),
        ("scenes:many", "must read scenes:COUNT"),
        ("{folder}", "gives no samples of kind 'pair'"),
        ("{folder}/bad.jsonl", r"line 1: line has no text in field 'caption' \(but image\)"),
        ("{folder}/worse.jsonl", r"line 1: line has no text in field 'image' \(but picture\)"),
    ],
)
def test_wrong_sources_are_refused(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png"}\n')
    (tmp_path / "worse.jsonl").write_text('{"picture": "a.png"}\n')
    with pytest.raises(ValueError, match=message):
        write_shards(ShardOptions("pair", source.format(folder=tmp_path), tmp_path / "out"))


def test_a_folder_that_was_begun_otherwise_is_not_written_into(tmp_path: Path) -> None:
    written("image", "scenes:2", tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"different settings \(source was scenes:\d, is now scenes:\d\); give those, or"
    ):
        written("image", "scenes:3", tmp_path / "a")
    write_tar(tmp_path / "0.tar", [("a.jpg", b"abc")])
    with pytest.raises(ValueError, match="holds shards of another origin"):
        written("image", "scenes:2", tmp_path)
    with pytest.raises(ValueError, match="needs --text-tokenizer"):
        written("text", "scenes:2", tmp_path / "texts")


def test_a_folder_without_samples_gives_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no .tar shard"):
        indexed("image", tmp_path)
    write_tar(tmp_path / "0.tar", [])
    with pytest.raises(ValueError, match=r"holds no sample with what kind 'image' needs\n.*shard without a sample"):
        indexed("image", tmp_path)
