"""Writing a folder of shards: by any number of processes, after a kill, read by webdataset."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME
from data_pipeline.samples.scenes import draw_samples
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.sources.readers import SourceOptions
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.launch import ROOT, run_ranks
from tests.support.shard_files import ALL, image_options, index_and_report, keys, write_tar, written
from tests.support.tiny_run import TinyData


def test_written_shards_hold_the_drawn_samples_and_webdataset_reads_them(tmp_path: Path) -> None:
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


def test_skipped_samples_are_named_by_their_place_in_the_source_with_details(tmp_path: Path) -> None:
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


def test_texts_are_skipped_by_their_place_and_a_tar_of_them_is_read(tiny_data: TinyData, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("kind", "noun", "name"), [("vqa", "answers", ANSWERS_NAME), ("label", "classes", CLASSES_NAME)]
)
def test_the_number_of_labels_is_printed_for_the_recipe(kind: str, noun: str, name: str, tmp_path: Path) -> None:
    ended = run_ranks(1, "data_pipeline.write_shards", [kind, "scenes:3", tmp_path], fresh=True)
    count = len((tmp_path / name).read_text().splitlines())
    assert f"  {count} {noun} in {tmp_path / name}: finetuning needs --num-classes {count}\n" in ended.stdout[0]


def test_after_a_kill_the_same_command_writes_the_missing_shards(tmp_path: Path) -> None:
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
        index_and_report("pair", tmp_path / "killed")
    again = written("pair", "scenes:600", tmp_path / "killed", samples_per_shard=20)
    assert again.fingerprint == written("pair", "scenes:600", tmp_path / "whole", samples_per_shard=20).fingerprint
    unchanged = [path for path, modified in kept.items() if path.stat().st_mtime_ns == modified]
    assert len(unchanged) >= len(kept) - 2  # a kill may come between a shard and its scan, once per process


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


def test_a_scan_damaged_by_a_crash_is_written_again(tmp_path: Path) -> None:
    index = written("pair", "scenes:6", tmp_path, samples_per_shard=2)
    os.truncate(tmp_path / ".index" / "000001.npz", 0)
    assert written("pair", "scenes:6", tmp_path, samples_per_shard=2).fingerprint == index.fingerprint
    os.truncate(tmp_path / ".index" / "000002.npz", 100)
    assert index_and_report("pair", tmp_path)[0].fingerprint == index.fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "does not exist"),
        ("scenes:many", "must read scenes:COUNT"),
        ("{folder}", "gives no samples of kind 'pair'"),
        ("{folder}/bad.jsonl", r"line 1: line has no text in field 'caption' \(it has: image\)"),
        ("{folder}/worse.jsonl", r"line 1: line has no text in field 'image' \(it has: picture\)"),
    ],
)
def test_wrong_sources_are_refused(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png"}\n')
    (tmp_path / "worse.jsonl").write_text('{"picture": "a.png"}\n')
    with pytest.raises(ValueError, match=message):
        write_shards(ShardOptions("pair", source.format(folder=tmp_path), tmp_path / "out"))


def test_a_folder_without_samples_gives_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no .tar shard"):
        index_and_report("image", tmp_path)
    write_tar(tmp_path / "0.tar", [])
    with pytest.raises(ValueError, match=r"holds no sample with the parts of kind 'image'\n.*shard without a sample"):
        index_and_report("image", tmp_path)


def test_a_folder_that_cannot_be_made_is_named(images: Path) -> None:
    (images.parent / "out").write_text("a file")
    with pytest.raises(OSError, match=r"out.* cannot be written \(.*\); see to the file system and start again"):
        write_shards(image_options(images))
