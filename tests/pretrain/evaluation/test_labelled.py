"""Labelled images: their layouts, classes and halves, and mistakes in them. CPU, seconds."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.answers import CLASSES_NAME, class_lines
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from pretrain.evaluation.labelled import every_second, open_labelled, spread
from tests.support.evaluated import write_captioned_classes, write_labelled
from tests.support.shard_files import index_folder, png, write_tar
from tests.support.tiny_run import TinyData


def test_sub_folders_are_classes_and_every_second_image_is_tested(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "images")
    (folder / "notes.txt").write_text("not a class")
    found = open_labelled(str(folder), 100, DataConfig(), 24, True)
    assert found.classes == ("class_0", "class_1", "class_2")
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.is_test.tolist() == [False, True] * 6
    (folder / "class_1" / "0.png").write_bytes(b"no image")
    images, is_good = found.images(range(3, 6))
    assert images.shape == (3, 3, 24, 24) and is_good.tolist() == [1, 0, 1] and not images[1].any()


def test_captions_of_pairs_are_classes(tmp_path: Path) -> None:
    pairs = write_captioned_classes(tmp_path / "pairs", ["cat", "dog", "cat", "dog ", "owl"])
    found = open_labelled(str(pairs), 100, DataConfig(), 16, True)
    assert found.classes == ("cat", "dog", "owl") and found.labels.tolist() == [0, 1, 0, 1, 2]
    images, is_good = found.images(range(5))
    assert images[:, 0].float().mean((1, 2)).tolist() == [0, 1, 2, 3, 4] and is_good.all()


def test_shards_of_labels_name_their_classes(tmp_path: Path) -> None:
    names = ["owl", "cat", "cat", "owl", "dog"]
    members = [
        (f"{number}.{end}", content)
        for number, name in enumerate(names)
        for end, content in (
            ("png", png((number, 0, 0))),
            ("json", json.dumps({"class": name, "label": ["cat", "dog", "owl"].index(name)}).encode()),
        )
    ]
    write_tar(tmp_path / "labels" / "0.tar", members)
    index_folder(tmp_path / "labels", "label")
    found = open_labelled(str(tmp_path / "labels"), 4, DataConfig(), 16, True, with_all_classes=True)
    assert found.classes == ("cat", "dog", "owl") and found.labels.tolist() == [2, 0, 0, 2]
    images, is_good = found.images(range(4))
    assert images[:, 0].float().mean((1, 2)).tolist() == [0, 1, 2, 3] and is_good.all()
    (tmp_path / "labels" / CLASSES_NAME).write_text(class_lines(["ant", "cat", "dog", "owl"]))
    listed = open_labelled(str(tmp_path / "labels"), 5, DataConfig(), 16, True, with_all_classes=True)
    assert listed.classes == ("ant", "cat", "dog", "owl") and listed.labels.tolist() == [3, 1, 1, 3, 2]


@pytest.mark.parametrize("with_all_classes", [False, True])
def test_samples_whose_class_cannot_be_read_are_left_out_and_counted(with_all_classes: bool, tmp_path: Path) -> None:
    pairs = write_captioned_classes(tmp_path / "pairs", ["cat", "\n", "cat", "dog", "\n", "dog", "owl"])
    found = open_labelled(str(pairs), 6, DataConfig(), 16, True, with_all_classes)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.classes == (("cat", "dog", "owl") if with_all_classes else ("cat", "dog"))
    assert found.skipped == [f"2 samples of {pairs}: text has no visible character"]
    images, is_good = found.images(range(4))
    assert images[:, 0].float().mean((1, 2)).tolist() == [0, 2, 3, 5] and is_good.all()


def test_a_label_with_a_flipped_bit_is_left_out_and_counted(tmp_path: Path) -> None:
    members = [
        (f"{number}.{end}", content)
        for number, name in enumerate(["cat", "cat", "dog", "owl", "dog"])
        for end, content in (("png", png()), ("json", json.dumps({"class": name, "label": 0}).encode()))
    ]
    path = write_tar(tmp_path / "labels" / "0.tar", members)
    index_folder(tmp_path / "labels", "label")
    path.write_bytes(path.read_bytes().replace(b"owl", b"ow\xec"))
    found = open_labelled(str(tmp_path / "labels"), 5, DataConfig(), 16, True, with_all_classes=True)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 1, 1]
    (line,) = found.skipped
    assert line.startswith(f"1 samples of {tmp_path / 'labels'}: ")


def test_an_image_of_a_shard_that_was_exchanged_is_skipped_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    members = [
        (f"{number}.{end}", content)
        for number, name in enumerate(["cat", "dog"] * 2)
        for end, content in (("png", png()), ("txt", name.encode()))
    ]
    path = write_tar(tmp_path / "pairs" / "0.tar", members)
    index_folder(tmp_path / "pairs")
    found = open_labelled(str(tmp_path / "pairs"), 4, DataConfig(), 16, True)
    path.unlink()  # else the open file would still be read
    write_tar(path, [*members, ("more.txt", bytes(20_000))])
    found = replace(found, sources=(SampleReader(read_index(tmp_path / "pairs", check_shards=False), 1 << 20), [0, 1]))
    _, is_good = found.images(range(2))
    assert is_good.tolist() == [0, 0]
    assert "0.tar:0" in capfd.readouterr().err


def test_images_are_kept_only_if_asked_for(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "images")
    kept = open_labelled(str(folder), 100, DataConfig(), 24, True)
    streamed = open_labelled(str(folder), 100, DataConfig(), 24, True, keeps_images=False)
    assert torch.equal(kept.images(range(12))[0], streamed.images(range(12))[0])
    (folder / "class_0" / "1.png").write_bytes(b"changed")
    assert kept.images(range(1, 2))[1].all() and not streamed.images(range(1, 2))[1].any()


def test_classes_are_those_of_the_whole_source_if_asked_for(tmp_path: Path) -> None:
    names = ["cat", "cat", "dog", "dog", "owl"]
    members = [
        (f"{number}.{end}", content)
        for number, name in enumerate(names)
        for end, content in (("png", png()), ("txt", name.encode()))
    ]
    write_tar(tmp_path / "pairs" / "0.tar", members)
    index_folder(tmp_path / "pairs")
    chosen = open_labelled(str(tmp_path / "pairs"), 4, DataConfig(), 16, True)
    whole = open_labelled(str(tmp_path / "pairs"), 4, DataConfig(), 16, True, with_all_classes=True)
    assert chosen.classes == ("cat", "dog") and whole.classes == ("cat", "dog", "owl")
    assert chosen.labels.tolist() == whole.labels.tolist() == [0, 0, 1, 1]


def test_one_image_of_each_class_is_enough_unless_images_are_tested_by_others(tmp_path: Path) -> None:
    folder = str(write_labelled(tmp_path / "images", num_classes=3))
    found = open_labelled(folder, 3, DataConfig(), 24, True, with_all_classes=True, is_split=False)
    assert found.labels.tolist() == [0, 1, 2]
    words = (
        "3 images in 3 classes, of which .* need two images or more; .*, or leave knn and probe out of evaluation.parts"
    )
    with pytest.raises(ValueError, match=words):
        open_labelled(folder, 3, DataConfig(), 24, True, with_all_classes=True)
    with pytest.raises(ValueError, match="4 images of fewer than 2 classes; give a folder with one sub-folder"):
        open_labelled(str(write_labelled(tmp_path / "one", num_classes=1)), 9, DataConfig(), 24, True, is_split=False)


def test_images_in_formats_that_shards_do_not_hold_are_read_as_they_would_be_stored(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "images")
    image = Image.new("P", (30, 20), 1)
    image.putpalette([0, 0, 0, 250, 5, 5])
    for name in os.listdir(folder):
        image.save(folder / name / "0.gif")
    found = open_labelled(str(folder), 100, DataConfig(), 24, True)
    gifs = [place for place in range(len(found.labels)) if found.name(place).endswith(".gif")]
    assert len(gifs) == len(found.classes)
    for place in gifs:
        pixels, is_good = found.images(range(place, place + 1))
        expected = torch.tensor([250, 5, 5]).view(3, 1, 1)
        assert is_good.all() and (pixels[0].int() - expected).abs().max() <= 3


def test_samples_are_spread_evenly() -> None:
    assert spread(10, 4) == [0, 2, 5, 7] and spread(3, 10) == [0, 1, 2]
    assert torch.equal(every_second([5, 5, 7, 5, 7]), torch.tensor([False, True, False, False, True]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "does not exist; give a folder with one sub-folder of image files per class"),
        ("empty", "has no sub-folder with images"),
        ("one", "4 images in 1 classes, of which at least 2 need two images or more"),
        ("images", "holds shards of kind 'image', which have no classes"),
    ],
)
def test_other_layouts_are_refused_in_a_sentence(name: str, said: str, tiny_data: TinyData, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_labelled(tmp_path / "one", num_classes=1)
    folder = tiny_data.folder / "images" if name == "images" else tmp_path / name
    with pytest.raises(ValueError, match=said):
        open_labelled(str(folder), 100, DataConfig(), 24, True)
