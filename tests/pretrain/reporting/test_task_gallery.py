"""Answers of finetuned networks for a report. CPU, seconds."""

import shutil
from pathlib import Path

import pytest

from data_pipeline.samples.answers import ANSWERS_NAME
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.tasks import Task
from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import CaptionHead, Nlvr2Head, TaskHead, VqaHead
from model.pretrained import save_network
from pretrain.conversion.evaluated import evaluate_source
from pretrain.evaluation.options import EvaluateOptions
from pretrain.formats.vocabulary import EXPORTED_NAME
from pretrain.reporting.task_gallery import task_gallery
from tests.support.task_data import write_scenes
from tests.support.task_networks import small_task_network
from tests.support.tiny_run import TinyData

ANSWERS = LABELS["vqa"]
HEADS: dict[Task, TaskHead] = {"vqa": VqaHead(len(ANSWERS)), "nlvr2": Nlvr2Head(), "caption": CaptionHead()}


@pytest.mark.parametrize("task", HEADS)
def test_samples_are_shown_with_what_the_network_says_and_what_is_right(
    task: Task, tiny_data: TinyData, tmp_path: Path
) -> None:
    network = small_task_network(HEADS[task], TextTokenizer(tiny_data.folder / EXPORTED_NAME))
    export = tmp_path / "export"
    export.mkdir()
    save_network(network.state_dict(), network.encoder.config, export, heads=network.heads)
    shutil.copy(tiny_data.folder / EXPORTED_NAME, export)
    folder = write_scenes(tmp_path / task, task, 6)
    if task == "vqa":
        shutil.copy(folder / ANSWERS_NAME, export)
    shown = task_gallery(export, folder, 4)
    assert len(shown) == 4
    assert all(len(sample.images) == (2 if task == "nlvr2" else 1) for sample in shown)
    assert all(image.startswith("data:image/") for sample in shown for image in sample.images)
    if task == "caption":
        assert all(sample.is_right is None and "; " in sample.right for sample in shown)
        return
    _, figures = evaluate_source(EvaluateOptions(export, held_out=str(folder), num_samples=4))
    assert figures[f"{task}/acc"] == pytest.approx(sum(bool(sample.is_right) for sample in shown) / 4)
    assert all(sample.is_right == (sample.said == sample.right) for sample in shown)
    begins = ("what ", "which ", "is ", "how ", "where ", "at ") if task == "vqa" else ("a ", "an ", "on ", "at ")
    assert all(sample.text.startswith(begins) for sample in shown)
