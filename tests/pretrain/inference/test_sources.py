"""Samples of sources of every kind, by their keys. CPU, a second."""

import json
from pathlib import Path

import pytest

from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.samples.scenes import draw_samples
from data_pipeline.shards.index import read_index
from data_pipeline.sources.readers import SourceOptions
from pretrain.inference.sources import Samples, open_samples
from tests.support.tiny_run import TinyData


def opened(kind: Kind, source: Path | str) -> Samples:
    return open_samples(kind, str(source), SourceOptions(), Path("cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three pictures, a list and a table of them, and captions."""
    folder: Path = tmp_path_factory.mktemp("pictures")
    (folder / "inner").mkdir()
    names = ["a.png", "b.png", "inner/c.png"]
    samples = list(draw_samples("pair", 3))
    for name, sample in zip(names, samples, strict=True):
        assert sample.image is not None
        (folder / name).write_bytes(sample.image)
    (folder / "notes.md").write_text("not an image")
    listed = folder.parent / "lists"
    listed.mkdir()
    (listed / "list.txt").write_text("".join(f"{folder / name}\n" for name in reversed(names)))
    lines = [
        {"image": str(folder / "a.png"), "caption": ["one", "two"]},
        {"image": str(folder / "b.png"), "caption": ""},
    ]
    (listed / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (listed / "texts.txt").write_text("first line\n\nthird line\n")
    return folder


def test_a_folder_gives_its_images_by_relative_paths_and_names_other_files(folder: Path) -> None:
    samples = opened("image", folder)
    found = {listed.key: listed for listed in samples}
    assert list(found) == ["a.png", "b.png", "inner/c.png", "notes.md"]
    assert samples.image(found["inner/c.png"]) == (folder / "inner" / "c.png").read_bytes()
    with pytest.raises(BadSampleError, match="file is not an image by its name"):
        samples.image(found["notes.md"])


def test_a_list_keeps_its_order(folder: Path) -> None:
    found = list(opened("image", folder.parent / "lists" / "list.txt"))
    assert [Path(listed.key).name for listed in found] == ["c.png", "b.png", "a.png"]


def test_captions_of_one_image_have_keys_of_their_own(folder: Path) -> None:
    samples = opened("pair", folder.parent / "lists" / "pairs.jsonl")
    found = list(samples)
    assert [Path(listed.key).name for listed in found] == ["a.png#0", "a.png#1", "b.png"]
    assert [samples.text(listed) for listed in found[:2]] == ["one", "two"]
    with pytest.raises(BadSampleError, match="text has no visible character"):
        samples.text(found[2])


def test_a_text_file_has_a_text_per_line_by_its_number(folder: Path) -> None:
    samples = opened("text", folder.parent / "lists" / "texts.txt")
    found = list(samples)
    assert [listed.key for listed in found] == ["1", "2", "3"] and found[2].place.endswith("texts.txt:3")
    assert samples.text(found[2]) == "third line"
    with pytest.raises(BadSampleError):
        samples.text(found[1])


@pytest.mark.parametrize(
    ("kind", "name"), [("image", "pairs"), ("text", "pairs"), ("pair", "pairs"), ("text", "texts")]
)
def test_shards_give_their_samples_by_key(kind: Kind, name: str, tiny_data: TinyData) -> None:
    shards = tiny_data.folder / name
    samples, index = opened(kind, shards), read_index(shards)
    found = list(samples)
    assert len(found) == samples.num_samples == index.num_samples
    assert [listed.key.encode() for listed in found[:2]] == [bytes(record["key"]) for record in index.records[:2]]
    assert kind == "text" or samples.image(found[3]).startswith((b"\x89PNG", b"\xff\xd8", b"RIFF"))
    assert kind == "image" or samples.text(found[3])


def test_shards_of_another_kind_and_sources_that_are_not_there_are_refused(tiny_data: TinyData, folder: Path) -> None:
    with pytest.raises(ValueError, match="holds shards of kind 'image', not 'pair'"):
        opened("pair", tiny_data.folder / "images")
    with pytest.raises(ValueError, match="nowhere does not exist"):
        list(opened("image", folder / "nowhere"))


def test_shards_refuse_options_on_how_other_sources_are_read(tiny_data: TinyData) -> None:
    with pytest.raises(ValueError, match="holds shards, which are read without --image-root; leave it out"):
        open_samples("pair", str(tiny_data.folder / "pairs"), SourceOptions(image_root=Path("images")), Path("cache"))
