"""Inputs of an evaluation are those of training without augmentation and masks. CPU, seconds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.loading.task_sample import TaskLabels
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.tasks import TASK_KINDS, Task
from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.config.finetune import FinetuneConfig
from pretrain.evaluation.task_inputs import TaskInputs
from pretrain.evaluation.task_samples import open_held_out_task
from pretrain.formats.preprocessing import task_preprocessing
from pretrain.jobs.task_micro_step import make_task_micro_step
from pretrain.recipes import FINETUNE_RECIPES
from tests.support.task_data import write_scenes
from tests.support.tiny_run import TinyData


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "classify"])
def test_the_network_sees_what_it_sees_in_training(task: Task, tiny_data: TinyData, tmp_path: Path) -> None:
    config = FINETUNE_RECIPES[f"{task}_laptop"]()
    assert isinstance(config, FinetuneConfig)
    config = replace(config, model=replace(config.model, drop_path_rate=0.0))
    tokenizer = None if task == "classify" else TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    folder, labels = str(write_scenes(tmp_path / task, task, 3)), TaskLabels(task, LABELS.get(TASK_KINDS[task]))
    preprocessing = task_preprocessing(config.model, config.heads, 12)
    samples = open_held_out_task(folder, "--held-out", TaskDataConfig(), labels, tokenizer, preprocessing)
    batch, _ = samples.batch(range(3))
    patch_size, mean, std = config.model.patch_size, preprocessing.mean, preprocessing.std
    found = TaskInputs(task, patch_size, config.dtype, torch.device("cpu"), mean, std).of(batch)
    expected = make_task_micro_step(config, batch, tokenizer).inputs
    assert torch.allclose(found.images, expected.images, atol=1e-5)
    for name in ("image_mask", "caption_ids", "caption_padding", "text_ids"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert (found.caption_lengths, found.causal_captions) == (expected.caption_lengths, expected.causal_captions)
