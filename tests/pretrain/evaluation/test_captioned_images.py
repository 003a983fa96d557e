"""Images with several captions: found by their bytes in shards and in sources, and what is left out. CPU, seconds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.loading.config import DataConfig
from data_pipeline.sources.readers import SourceOptions
from pretrain.evaluation.captioned_images import CaptionedImages, open_captioned_images
from pretrain.evaluation.options import HELD_OUT_SOURCE
from tests.support.shard_files import ALL, index_folder, png, write_tar, written
from tests.support.tiny_run import TinyData

CAPTIONS = {"a": ["one a", "two a", "three a"], "b": ["one b"], "c": ["one c", "two c"]}
"""Captions of three images, in the order of their names."""


def opened(
    source: Path, num: int | None = None, each: int | None = None, options: SourceOptions = HELD_OUT_SOURCE
) -> CaptionedImages:
    return open_captioned_images(str(source), "evaluation.pairs", num, each, DataConfig(), 16, True, options)


def grouped(found: CaptionedImages) -> dict[int, list[str]]:
    """Return the captions of each image, by the red of its pixels."""
    images, is_good = found.images(range(found.num_images))
    assert is_good.all()
    reds = images[:, 0, 0, 0].tolist()
    captions: dict[int, list[str]] = {red: [] for red in reds}
    for caption, place in zip(found.captions, found.image_of_caption.tolist(), strict=True):
        captions[reds[place]].append(caption)
    return captions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three images with all layouts of their captions beside them."""
    folder = tmp_path / "coco"
    folder.mkdir()
    for number, name in enumerate(CAPTIONS):
        (folder / f"{name}.png").write_bytes(png((number, 0, 0)))
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(CAPTIONS)]
    annotations = [
        {"id": 10 * place + number, "image_id": place, "caption": caption}
        for place, captions in enumerate(CAPTIONS.values())
        for number, caption in enumerate(captions)
    ]
    annotations.reverse()  # COCO's are in no order
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    karpathy = [
        {"filename": f"{name}.png", "split": split, "sentences": [{"raw": caption} for caption in captions]}
        for (name, captions), split in zip(CAPTIONS.items(), ("test", "restval", "test"), strict=True)
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": karpathy}))
    return folder


def test_captions_of_one_image_are_those_of_coco_in_their_order(folder: Path) -> None:
    found = opened(folder / "captions.json")
    assert grouped(found) == dict(enumerate(CAPTIONS.values()))
    assert found.image_of_caption.tolist() == [0, 0, 0, 1, 2, 2] and found.skipped == []
    assert (found.num_images, len(found.captions)) == (3, 6)


def test_karpathys_test_split_is_read(folder: Path) -> None:
    found = opened(folder / "dataset_coco.json")
    assert grouped(found) == {0: CAPTIONS["a"], 2: CAPTIONS["c"]}
    assert found.skipped == [f"1 pairs of {folder / 'dataset_coco.json'}: image of another split than --image-splits"]
    other = opened(folder / "dataset_coco.json", options=SourceOptions(image_splits=("restval",)))
    assert grouped(other) == {1: CAPTIONS["b"]}


def test_shards_of_a_source_give_the_same_as_the_source(folder: Path, tmp_path: Path) -> None:
    """Write two pairs per shard: the captions of an image lie in different ones."""
    written("pair", folder / "captions.json", tmp_path / "shards", 2, keep=ALL, split="train")
    shards, source = opened(tmp_path / "shards"), opened(folder / "captions.json")
    assert shards.captions == source.captions and torch.equal(shards.image_of_caption, source.image_of_caption)
    assert torch.equal(shards.images(range(3))[0], source.images(range(3))[0])
    assert shards.index is not None and source.index is None


def test_shards_of_captions_have_all_captions_of_an_image(folder: Path, tmp_path: Path) -> None:
    written("caption", folder / "captions.json", tmp_path / "shards", 2, keep=ALL)
    found = grouped(opened(tmp_path / "shards"))
    assert {red: sorted(captions) for red, captions in found.items()} == {
        red: sorted(captions) for red, captions in enumerate(CAPTIONS.values())
    }
    assert opened(tmp_path / "shards", num=4).image_of_caption.tolist() == [0, 0, 0, 1]


def test_copies_of_an_image_are_one_whatever_their_names(tmp_path: Path) -> None:
    """Write images beside their captions, as img2dataset does: each caption has its own copy."""
    for number, (name, captions) in enumerate(CAPTIONS.items()):
        for place, caption in enumerate(captions):
            (tmp_path / f"{name}{place}.png").write_bytes(png((number, 0, 0)))
            (tmp_path / f"{name}{place}.txt").write_text(caption)
    assert grouped(opened(tmp_path)) == dict(enumerate(CAPTIONS.values()))


def test_the_first_pairs_and_the_first_captions_are_taken(folder: Path) -> None:
    assert grouped(opened(folder / "captions.json", 4)) == {0: CAPTIONS["a"], 1: CAPTIONS["b"]}
    assert grouped(opened(folder / "captions.json", each=2)) == {0: ["one a", "two a"], 1: ["one b"], 2: CAPTIONS["c"]}


def test_what_cannot_be_read_is_left_out_and_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"image": f"{name}.png", "caption": caption} for name, caption in (("a", "red"), ("b", " "), ("x", "gone"))
    ]
    source = folder / "pairs.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = opened(source)
    assert found.captions == ["red", "gone"] and found.skipped == [f"1 pairs of {source}: text is missing or empty"]
    images, is_good = found.images(range(2))
    assert is_good.tolist() == [1, 0] and not images[1].any()
    assert f"skipped {source}:3: image file does not exist" in capfd.readouterr().err


def test_damaged_captions_of_shards_are_left_out(tmp_path: Path) -> None:
    members = [("0.png", png()), ("0.txt", b"good"), ("1.png", png()), ("1.txt", b"also good")]
    path = write_tar(tmp_path / "pairs" / "0.tar", members)
    index_folder(tmp_path / "pairs")
    path.write_bytes(path.read_bytes().replace(b"also good", b"ALSO good"))
    found = opened(tmp_path / "pairs")
    assert found.captions == ["good"] and found.skipped[0].endswith(": bytes differ from the index")


def test_other_folders_are_refused_in_a_sentence(tiny_data: TinyData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluation.pairs .* cannot be used: it holds shards of kind 'image', not"):
        opened(tiny_data.folder / "images")
    with pytest.raises(ValueError, match="cannot be used: source .* does not exist"):
        opened(tmp_path / "missing")
    (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "caption": " "}\n')
    with pytest.raises(ValueError, match="cannot be used: it has no pair that can be read"):
        opened(tmp_path / "pairs.jsonl")


def test_shards_refuse_options_on_how_other_sources_are_read(tiny_data: TinyData) -> None:
    options = replace(HELD_OUT_SOURCE, caption_column="title")
    with pytest.raises(ValueError, match=r"evaluation.pairs .* shards are read without --caption-column; leave it out"):
        opened(tiny_data.folder / "pairs", options=options)
