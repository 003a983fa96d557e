"""Held-out samples of a task, good and bad. CPU, milliseconds."""

from pathlib import Path

import pytest

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.loading.task_sample import TaskLabels
from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.evaluation.task_samples import open_held_out_task
from pretrain.formats.preprocessing import Preprocessing
from tests.support.task_networks import write_by_hand
from tests.support.tiny_run import TinyData

PREPROCESSING = Preprocessing(16, text_length=8)
COLORS = ["red", "green", "blue"]


def test_batches_hold_what_the_task_needs_and_blanks_for_unreadable_samples(
    tmp_path: Path, tiny_data: TinyData
) -> None:
    write_by_hand(tmp_path, "nlvr2", [{"identifier": f"dev-{n}", "label": 1} for n in range(3)])
    tar = (tmp_path / "0.tar").read_bytes()
    place = tar.rindex(b"\x89PNG")  # the second image of the last sample
    (tmp_path / "0.tar").write_bytes(tar[: place + 50] + b"\xff" + tar[place + 51 :])
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    labels = TaskLabels("nlvr2", None)
    samples = open_held_out_task(str(tmp_path), "--held-out", TaskDataConfig(), labels, tokenizer, PREPROCESSING)
    batch, is_good = samples.batch(range(3))
    assert is_good.tolist() == [1, 1, 0]
    assert batch.images.shape == (3, 3, 16, 16) and batch.second_images is not None and batch.text_ids is not None
    assert batch.text_ids.shape == (3, 8) and batch.text_lengths[2] == 2 and not batch.second_images[2].any()


def test_a_folder_of_another_kind_and_one_without_samples_of_use_are_refused(tmp_path: Path) -> None:
    write_by_hand(tmp_path / "classes", "label", [{"class": "red", "label": 0}], COLORS)
    folder, data = str(tmp_path / "classes"), TaskDataConfig()
    with pytest.raises(ValueError, match="holds shards of kind 'label', not 'vqa', which task vqa needs"):
        open_held_out_task(folder, "data.held_out", data, TaskLabels("vqa", COLORS), None, PREPROCESSING)
    with pytest.raises(ValueError, match=r"none of its 1 samples can be used: class is not in the class list"):
        open_held_out_task(folder, "data.held_out", data, TaskLabels("classify", ["teal"]), None, PREPROCESSING)
    with pytest.raises(ValueError, match=r"data.held_out: .*does not exist.*give the right folder"):
        open_held_out_task(
            str(tmp_path / "none"), "data.held_out", data, TaskLabels("vqa", COLORS), None, PREPROCESSING
        )


def test_samples_that_cannot_be_used_are_counted_by_their_reason(tmp_path: Path) -> None:
    colors: list[dict[str, object]] = [{"class": name, "label": COLORS.index(name)} for name in ("red", "blue", "blue")]
    write_by_hand(tmp_path, "label", colors, COLORS)
    samples = open_held_out_task(
        str(tmp_path), "data.held_out", TaskDataConfig(), TaskLabels("classify", ["red", "green"]), None, PREPROCESSING
    )
    assert list(samples.problems.values()) == [2] and "class is not in the class list" in next(iter(samples.problems))
    assert [annotation is None for annotation in samples.annotations] == [False, True, True]
