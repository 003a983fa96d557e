"""preprocessing.json: written, read back, and refused in one sentence if it is not valid. CPU, seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import CaptionHead, ClassHead, MultiwayConfig, VqaHead
from pretrain.formats.preprocessing import (
    PREPROCESSING_NAME,
    Preprocessing,
    default_preprocessing,
    read_preprocessing,
    write_preprocessing,
)

FIELDS = ("image_size", "mean", "std", "interpolation", "crop_mode", "text_length", "caption_length", "tokenizer")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_preprocessing(tmp_path) is None
    written = Preprocessing(
        384, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", "center", 512, 48, "words.spm"
    )
    write_preprocessing(written, tmp_path)
    assert tuple(json.loads((tmp_path / PREPROCESSING_NAME).read_text())) == FIELDS
    assert read_preprocessing(tmp_path) == written


def test_the_defaults_are_those_of_microsofts_tasks_within_the_positions() -> None:
    found = default_preprocessing(MultiwayConfig(image_size=384))
    assert (found.image_size, found.mean, found.std) == (384, (0.5,) * 3, (0.5,) * 3)
    assert (found.interpolation, found.text_length, found.caption_length) == ("bicubic", 64, 64)
    assert default_preprocessing(MultiwayConfig(max_text_length=12)).caption_length == 12
    assert default_preprocessing(MultiwayConfig(), heads=VqaHead()) == default_preprocessing(MultiwayConfig())
    captions, classes = (default_preprocessing(MultiwayConfig(), heads=heads) for heads in (CaptionHead(), ClassHead()))
    assert (captions.caption_length, captions.mean) == (32, (0.5,) * 3)
    assert (classes.mean, classes.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (captions.crop_mode, classes.crop_mode) == ("squash", "center")


def test_a_file_without_a_crop_mode_is_that_of_the_task_which_wrote_it(tmp_path: Path) -> None:
    (tmp_path / PREPROCESSING_NAME).write_text('{"image_size": 32}')
    for heads in (None, VqaHead()):
        assert read_preprocessing(tmp_path, heads) == Preprocessing(32, crop_mode="squash")
    assert read_preprocessing(tmp_path, ClassHead()) == Preprocessing(32, crop_mode="center")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "image_size Input should be greater than or equal to 1"),
        ({"std": [0.5, 0.5, 0]}, r"std.2 Input should be greater than 0"),
        ({"mean": [0.5]}, "mean"),
        ({"interpolation": "nearest"}, "interpolation Input should be 'bicubic'"),
        ({"text_length": 2}, "text_length Input should be greater than or equal to 3"),
        ({"tokenizer": "../secrets.spm"}, "tokenizer '../secrets.spm' is not the name of a file in the same folder"),
        ({"crop_mode": "border"}, "crop_mode Input should be 'squash' or 'center'"),
        ({"tokenizer": ".."}, "is not the name of a file"),
        ({"image_size": None}, "image_size Input should be a valid integer"),
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = {"image_size": 224, "mean": [0.5] * 3} | changes
    (tmp_path / PREPROCESSING_NAME).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"preprocessing.json is not valid: .*{message}.*; write it again"):
        read_preprocessing(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("[]", "does not hold a JSON object"), ("{", "is not valid JSON")])
def test_another_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / PREPROCESSING_NAME).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_preprocessing(tmp_path)


def test_a_tokenizer_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="'a/b.spm' is not the name of a file in the same folder"):
        replace(Preprocessing(224), tokenizer="a/b.spm")
