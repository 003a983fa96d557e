"""Samples of a task in evaluation: whole images, and all that is known about them."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.task_config import labels_of
from data_pipeline.loading.task_sample import TaskReader
from data_pipeline.samples.task_labels import TaskLabels
from data_pipeline.samples.tasks import CaptionAnnotation, Task, VqaAnnotation
from data_pipeline.texts.tokenizer import TextTokenizer
from tests.support.encoded_images import encoded
from tests.support.shard_files import GOOD, index_folder, write_tar
from tests.support.task_data import TEXT_LENGTH, task_config, write_scenes
from tests.support.task_sources import reader_of
from tests.support.tiny_run import TinyData

TASKS: tuple[Task, ...] = get_args(Task)
SIZE = 32
TRANSFORM = ImageTransform(SIZE, 1, 0, False, 1 << 20)
CROPPING = ImageTransform(SIZE, 1, 0, False, 1 << 20, crop_mode="center")


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_is_read_without_augmentation(task: Task, tmp_path: Path, tiny_data: TinyData) -> None:
    folder = write_scenes(tmp_path / task, task, 3)
    config = task_config(folder, tiny_data.folder / "text_tokenizer.spm")
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    labels, reader = TaskLabels(task, labels_of(config, task)), reader_of(folder)
    found = TaskReader(reader, labels, tokenizer, TEXT_LENGTH, TRANSFORM).sample(2)
    center = TRANSFORM.center
    assert np.array_equal(found.loaded.pixels, center(reader.image_bytes(2)))
    assert found.loaded.sample_id == 2 and found.loaded.key == reader.key(2)
    assert found.annotation == reader.annotation(2) and found.loaded.target == labels.target(found.annotation)
    if task == "nlvr2":
        assert found.loaded.second_pixels is not None
        assert np.array_equal(found.loaded.second_pixels, center(reader.image_bytes(2, "image2")))
    first = reader.texts(2)[:1]
    assert found.loaded.ids == (tokenizer.encode_to_length(first[0], TEXT_LENGTH) if first else None)
    assert found.text == (reader.text(2) if task in ("vqa", "nlvr2") else None)


def test_an_image_can_be_cropped_to_a_square(tmp_path: Path) -> None:
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 4:12] = 255
    members = [("a.png", encoded(Image.fromarray(picture))), ("a.json", b'{"class": "white", "label": 0}')]
    write_tar(tmp_path / "label/0.tar", members)
    index_folder(tmp_path / "label", "label")
    found = TaskReader(reader_of(tmp_path / "label"), TaskLabels("classify", ["white"]), None, 8, CROPPING)
    assert (found.sample(0).loaded.pixels == 255).all()


def test_samples_of_a_test_split_and_unknown_answers_are_read_too(tmp_path: Path, tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    write_tar(tmp_path / "caption/0.tar", [("a.png", GOOD), ("a.json", b'{"image_id": 1}')])
    index_folder(tmp_path / "caption", "caption")
    captions = TaskReader(reader_of(tmp_path / "caption"), TaskLabels("caption", None), tokenizer, 8, TRANSFORM)
    found = captions.sample(0)
    assert found.annotation == CaptionAnnotation(1, ()) and found.loaded.ids is None
    members = [("a.png", GOOD), ("a.txt", b"a circle"), ("a.json", b'{"question_id": 1, "answers": {"mauve": 1}}')]
    write_tar(tmp_path / "vqa/0.tar", members)
    index_folder(tmp_path / "vqa", "vqa")
    questions = TaskReader(reader_of(tmp_path / "vqa"), TaskLabels("vqa", ["red"]), tokenizer, 8, TRANSFORM)
    found = questions.sample(0)
    assert found.loaded.target == {} and found.annotation == VqaAnnotation(1, {"mauve": 1.0})
