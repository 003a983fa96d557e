"""Settings of the data of a task, and the lists that its labels refer to."""

from pathlib import Path

import pytest

from data_pipeline.loading.task_config import TaskDataConfig, labels_of
from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, answer_lines, class_lines


def test_lists_are_found_beside_the_first_shards_or_given(tmp_path: Path) -> None:
    (tmp_path / ANSWERS_NAME).write_text(answer_lines(["yes", "no"]))
    (tmp_path / CLASSES_NAME).write_text(class_lines(["tench"]))
    (tmp_path / "other.txt").write_text(answer_lines(["red"]))
    config = TaskDataConfig(shards=(f"{tmp_path}=2", "elsewhere"))
    assert labels_of(config, "vqa") == ["yes", "no"] and labels_of(config, "classify") == ["tench"]
    assert labels_of(config, "nlvr2") is labels_of(config, "caption") is None
    assert labels_of(TaskDataConfig(answers=tmp_path / "other.txt"), "vqa") == ["red"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"shard folder {tmp_path}/none does not exist"):
        labels_of(TaskDataConfig(shards=(f"{tmp_path}/none",)), "vqa")
    with pytest.raises(ValueError, match=f"list {tmp_path}/none.txt does not exist; .* give --data.answers"):
        labels_of(TaskDataConfig(answers=tmp_path / "none.txt"), "vqa")
    with pytest.raises(ValueError, match=r"data\.shards names no folder"):
        labels_of(TaskDataConfig(), "vqa")
    with pytest.raises(ValueError, match=r"classes\.txt is not looked for at a URL; .* give it with --data\.classes"):
        labels_of(TaskDataConfig(shards=("s3://bucket/imagenet",)), "classify")
    with pytest.raises(ValueError, match="min_crop_scale 0 must be a number"):
        TaskDataConfig(min_crop_scale=0)
    with pytest.raises(ValueError, match="weight of source"):
        TaskDataConfig(shards=("a=-1",))
    with pytest.raises(ValueError, match="pipe"):
        TaskDataConfig(held_out="pipe:cat a.tar")
