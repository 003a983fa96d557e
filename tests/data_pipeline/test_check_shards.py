"""Checking shards, and the contact sheet."""

import json
import os
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from data_pipeline.check_shards import CheckOptions, _check, check_shards, draw_contact_sheet, has_html_entities
from data_pipeline.samples.answers import CLASSES_NAME, class_lines
from data_pipeline.samples.sample import Kind
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.tasks import TASK_KINDS, Task
from data_pipeline.shards.contact_sheet import LINE, TILE
from data_pipeline.shards.index import read_index
from data_pipeline.shards.writer import SampleFilter
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.launch import run_ranks
from tests.support.task_data import write_scenes
from tests.support.tiny_run import TinyData


@pytest.mark.parametrize("kind", ["image", "pair", "text"])
def test_sound_shards_are_counted_and_shown(kind: Kind, tiny_data: TinyData, tmp_path: Path) -> None:
    folder = tiny_data.folder / f"{kind}s"
    num_samples = read_index(folder).num_samples
    ended = run_ranks(
        1, "data_pipeline.check_shards", [folder, "--sheet", tmp_path / "sheet.png", "--num-shown", 5], fresh=True
    )
    assert ended.exit_codes == [0], ended.stderr
    assert f"{num_samples} samples in" in ended.stdout[0] and f"a run can use {num_samples}, see" in ended.stdout[0]
    sheet = Image.open(tmp_path / "sheet.png")
    num_shown = min(5, num_samples)
    num_columns = min(4, num_shown)
    assert sheet.size[0] == num_columns * TILE
    height = (sheet.size[1] - LINE) // -(-num_shown // num_columns)
    for number in range(num_shown):
        left, top = number % num_columns * TILE, LINE + number // num_columns * height
        assert len(set(sheet.crop((left, top, left + TILE, top + height)).get_flattened_data())) > 20


@pytest.mark.parametrize("task", get_args(Task))
def test_shards_of_tasks_are_sound_and_their_labels_fit_the_list(task: Task, tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / task, task, 7)
    printed = _check(CheckOptions(str(folder), image_size=32, num_shown=7, num_workers=1))
    assert f"{TASK_KINDS[task]}, 7 samples in 2 shards" in printed and "a run can use 7" in printed
    assert ("characters per text" in printed) == (task != "classify")
    if task == "classify":
        (folder / CLASSES_NAME).write_text(class_lines([*reversed(LABELS["label"][1:])]))
        skipped = check_shards(CheckOptions(str(folder), num_workers=1)).report.skipped
        assert set(skipped) <= {
            "label is out of range",
            "label is that of another class",
            "class is not in the class list",
        }
        assert skipped.total() >= 6


def test_bad_samples_are_named_and_shown_with_their_reasons(tmp_path: Path) -> None:
    captions = {}
    for name in ("a.png", "large.png", "b.png"):
        Image.new("RGB", (30, 20) if name != "large.png" else (300, 200)).save(tmp_path / name)
        captions[name] = f"caption of {name}"
    lines = [json.dumps({"image": name, "caption": caption}) for name, caption in captions.items()]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    keep = SampleFilter(held_out_fraction=0)
    write_shards(ShardOptions("pair", str(tmp_path / "pairs.jsonl"), out, samples_per_shard=2, keep=keep))
    options = CheckOptions(str(out), max_image_pixels=10_000, num_workers=2)
    result = check_shards(options)
    assert result.report.num_kept == 2 and not result.damaged
    example = "000000.tar:large (300 x 200 pixels)"
    assert result.report.examples == {"image exceeds max_image_pixels": example}
    assert result.num_characters == len(captions["a.png"] + captions["b.png"])
    pixels = np.asarray(draw_contact_sheet(options)[0]).astype(int)
    reddish = (pixels[..., 0] - pixels[..., 1] > 100).any(axis=0)  # the reason is red, in one of three tiles
    assert [bool(reddish[i * TILE : (i + 1) * TILE].any()) for i in range(3)] == [False, True, False]


def test_an_index_whose_images_were_swapped_fails_the_check(tmp_path: Path) -> None:
    write_shards(ShardOptions("pair", "scenes:4", tmp_path))
    (path,) = tmp_path.glob("samples-*.npy")
    records = np.load(path)
    records["image"] = np.roll(records["image"], 1)
    np.save(path, records)
    options = CheckOptions(str(tmp_path), num_shown=0)
    problem = f"{path.name} differs from its checksum"
    assert check_shards(options).damaged == [f"the index of {tmp_path} is damaged ({problem}); index the folder again"]
    with pytest.raises(ValueError, match=rf"the index of {tmp_path} is damaged \({problem}\); index"):
        read_index(tmp_path)


def test_a_shard_that_differs_from_its_checksum_fails_the_check(tmp_path: Path) -> None:
    write_shards(ShardOptions("pair", "scenes:4", tmp_path, samples_per_shard=2))
    index = read_index(tmp_path)
    shard = tmp_path / index.shards[1].name
    content = bytearray(shard.read_bytes())
    content[int(index.records[2]["image"]["offset"]) + 5] ^= 1
    shard.write_bytes(content)
    os.truncate(tmp_path / index.shards[0].name, 512)
    ended = run_ranks(1, "data_pipeline.check_shards", [tmp_path], fresh=True)
    assert ended.exit_codes == [2]
    assert re.search(r"^error: shard .* is not the one that was indexed", ended.stderr[0], re.MULTILINE)
    assert "\n  skipped 1: bytes differ from the index; the first: 000001.tar:train_pair_0000002" in ended.stderr[0]
    assert "shard 000001.tar differs from its checksum" in ended.stderr[0]
    assert "skipped 2: shard 000000.tar cannot be read" in ended.stderr[0]
    assert f"shard {tmp_path}/000000.tar is not the one that was indexed" in ended.stderr[0]


def test_a_shard_that_is_gone_fails_the_check_in_a_sentence(tmp_path: Path) -> None:
    write_shards(ShardOptions("image", "scenes:4", tmp_path, samples_per_shard=2))
    (tmp_path / "000000.tar").unlink()
    result = check_shards(CheckOptions(str(tmp_path), num_workers=1))
    assert result.damaged == ["shard 000000.tar cannot be read (No such file or directory)"]
    assert (result.report.num_kept, result.report.skipped) == (2, {"shard 000000.tar cannot be read": 2})
    with pytest.raises(ValueError, match="index.json is not a folder"):
        check_shards(CheckOptions(str(tmp_path / "index.json")))


def test_texts_with_html_entities_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    captions = ["plain & simple", "a &amp; b", "&lt;b&gt; &#39;", "AT&T; R&D", "&copy;"]
    lines = []
    for number, caption in enumerate(captions):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": caption}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    keep = SampleFilter(held_out_fraction=0)
    write_shards(ShardOptions("pair", str(tmp_path / "pairs.jsonl"), tmp_path / "out", keep=keep))
    assert [has_html_entities(caption) for caption in captions] == [False, True, True, False, True]
    result = check_shards(CheckOptions(str(tmp_path / "out"), num_workers=1))
    assert (result.num_with_entities, result.first_with_entities) == (3, "000000.tar:1")


def test_a_sheet_that_cannot_be_written_ends_with_one_sentence(tmp_path: Path) -> None:
    write_shards(ShardOptions("image", "scenes:2", tmp_path))
    with pytest.raises(ValueError) as caught:
        _check(CheckOptions(str(tmp_path), sheet=tmp_path / "none" / "x.png", num_workers=1))
    assert (
        str(caught.value) == f"{tmp_path}/none/x.png cannot be written (No such file or directory); give --sheet FILE"
    )
