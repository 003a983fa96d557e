"""The plan and the parts of a folder: shards of different settings do not mix."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.files.folder_lock import LOCK_NAME
from data_pipeline.shards.index import read_index
from data_pipeline.shards.parts import PLAN_NAME, unfinished_parts
from data_pipeline.shards.writer import MAX_UNREADABLE, SampleFilter
from data_pipeline.sources.readers import SourceOptions
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.data_pipeline.files.test_folder_lock import held
from tests.support.shard_files import ALL, image_options, write_pairs, write_tar, written


def test_a_folder_started_before_an_option_existed_can_be_resumed(tmp_path: Path) -> None:
    options = ShardOptions("image", "scenes:4", tmp_path / "out", 2, num_workers=1)
    write_shards(options)
    plan = (tmp_path / "out" / "plan.txt").read_text()
    assert "unescape_html" not in plan and "image_splits" not in plan
    assert write_shards(options).num_kept == 4
    with pytest.raises(ValueError, match="unescape_html .*True"):
        write_shards(replace(options, columns=SourceOptions(unescape_html=True)))


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


def test_a_folder_started_with_different_settings_is_not_written_to(tmp_path: Path) -> None:
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


def test_a_second_command_with_other_options_is_refused_while_the_first_has_no_shard_yet(images: Path) -> None:
    write_shards(image_options(images, part=0, num_parts=2))
    out = images.parent / "out"
    for path in out.glob("*.tar"):
        path.unlink()
    plan = (out / PLAN_NAME).read_text()
    with held(out / ".index" / LOCK_NAME, 1), pytest.raises(ValueError, match="is being written by another command"):
        write_shards(image_options(images, samples_per_shard=2, part=0, num_parts=2))
    assert (out / PLAN_NAME).read_text() == plan
    write_shards(image_options(images, samples_per_shard=2))  # nobody is writing, and no shard is lost
    assert read_index(out).num_samples == MAX_UNREADABLE + 5


def test_a_damaged_plan_is_reported(images: Path) -> None:
    write_shards(image_options(images))
    (images.parent / "out" / PLAN_NAME).write_bytes(b"\xff\0")
    with pytest.raises(ValueError, match="is not a plan of write_shards"):
        unfinished_parts(images.parent / "out")
