"""Batches of tasks: targets by task, and what is not there."""

import numpy as np
import pytest
import torch

from data_pipeline.loading.task_batch import LoadedTaskSample, TaskShape, collate_task
from data_pipeline.samples.task_labels import Target
from data_pipeline.samples.tasks import Task
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID

PIXELS = np.zeros((3, 4, 4), np.uint8)


def sample(target: Target | None, second: bool = False, length: int = 0) -> LoadedTaskSample:
    ids = [BOS_ID, 7, EOS_ID, *[PAD_ID] * (length - 3)] if length else None
    return LoadedTaskSample(5, "key", PIXELS, PIXELS if second else None, ids, target)


def test_answers_become_rows_of_scores() -> None:
    shape = TaskShape("vqa", 4, 6, 3)
    batch = collate_task(0, [sample({0: 1.0, 2: 0.3}, length=6), sample(None, length=6)], [], shape)
    assert batch.targets is not None and batch.targets.dtype == torch.float32
    torch.testing.assert_close(batch.targets, torch.tensor([[1, 0, 0.3], [0, 0, 0]]))
    assert batch.text_lengths == (3, 3) and batch.text_padding is not None
    assert batch.text_padding.sum() == 6


@pytest.mark.parametrize(("task", "num_labels"), [("nlvr2", 2), ("classify", 7)])
def test_classes_are_integers_and_an_unknown_one_is_minus_one(task: Task, num_labels: int) -> None:
    is_nlvr2 = task == "nlvr2"
    length = 6 if is_nlvr2 else 0
    samples = [sample(1, is_nlvr2, length), sample(None, is_nlvr2, length)]
    batch = collate_task(0, samples, [], TaskShape(task, 4, 6, num_labels))
    assert batch.targets is not None and batch.targets.tolist() == [1, -1] and batch.targets.dtype == torch.int64
    assert (batch.second_images is None) != is_nlvr2 and (batch.text_ids is None) != is_nlvr2
    assert (batch.text_padding is None) != is_nlvr2


def test_a_batch_moves_with_all_its_tensors_and_parts_must_be_equal() -> None:
    batch = collate_task(0, [sample(1), sample(2), sample(3)], [], TaskShape("classify", 4, 6, 7))
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch) and moved.keys == batch.keys
    assert {name: tensor.device.type for name, tensor in moved.tensors().items()} == {
        "sample_ids": "meta", "images": "meta", "targets": "meta",
    }  # fmt: skip
    with pytest.raises(AssertionError, match="2 micro-batches must divide 3 samples"):
        batch.micro_batches(2)
