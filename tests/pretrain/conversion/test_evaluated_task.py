"""Figures and results of exported finetuned networks: the same on any number of ranks, and mistakes. CPU, a launch."""

import io
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, answer_lines, class_lines
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.tasks import Task
from data_pipeline.texts.tokenizer import TextTokenizer
from model import load_pretrained
from model.config import CaptionHead, ClassHead, Nlvr2Head, TaskHead, VqaHead
from model.pretrained import save_network
from pretrain.conversion.convert import convert
from pretrain.conversion.evaluated import evaluate_source, report
from pretrain.conversion.evaluated_task import prepare
from pretrain.conversion.options import ConvertOptions
from pretrain.evaluation.options import EvaluateOptions
from pretrain.formats.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, write_preprocessing
from pretrain.formats.vocabulary import EXPORTED_NAME
from tests.support.launch import run_ranks
from tests.support.shard_files import index_folder, write_tar
from tests.support.task_data import write_scenes
from tests.support.task_networks import small_task_network, write_by_hand
from tests.support.tiny_run import TinyData

ANSWERS, CLASSES = LABELS["vqa"], LABELS["label"]
HEADS: dict[Task, TaskHead] = {
    "vqa": VqaHead(len(ANSWERS)),
    "nlvr2": Nlvr2Head(),
    "caption": CaptionHead(),
    "classify": ClassHead(len(CLASSES)),
}
NUM_SAMPLES = 5
LENGTH = 7


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return {task: write_scenes(folder / task, task, NUM_SAMPLES) for task in HEADS}


@pytest.fixture(scope="module")
def exports(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Path]:
    """Return folders with a network of each task, its text tokenizer and its preprocessing."""
    root = tmp_path_factory.mktemp("exports")
    for task, heads in HEADS.items():
        folder = root / task
        folder.mkdir()
        network = small_task_network(heads, TextTokenizer(tiny_data.folder / EXPORTED_NAME))
        config = network.encoder.config
        save_network(network.state_dict(), config, folder, heads=heads)
        found = Preprocessing(config.image_size, text_length=LENGTH, caption_length=LENGTH)
        if task == "classify":
            found = Preprocessing(config.image_size, IMAGENET_MEAN, IMAGENET_STD, crop_mode="center")
        else:
            shutil.copy(tiny_data.folder / EXPORTED_NAME, folder)
        write_preprocessing(found, folder)
    (root / "vqa" / ANSWERS_NAME).write_text(answer_lines(ANSWERS))
    return {task: root / task for task in HEADS}


@pytest.mark.parametrize(
    "task", ["vqa", "classify", *(pytest.param(task, marks=pytest.mark.slow) for task in ("nlvr2", "caption"))]
)
def test_figures_of_an_export_are_those_of_its_file_in_microsofts_format(
    task: Task, exports: dict[Task, Path], shards: dict[Task, Path], tmp_path: Path
) -> None:
    results = tmp_path / ("results.csv" if task == "nlvr2" else "results.json")
    options = {"held_out": str(shards[task]), "chunk_size": 4}
    subject, figures = evaluate_source(EvaluateOptions(exports[task], results=results, **options))  # type: ignore[arg-type]
    assert subject.startswith(f"{exports[task]}; {NUM_SAMPLES} samples from {shards[task]}")
    assert all(math.isfinite(value) for value in figures.values()) and f"loss/{task}" in figures
    written = results.read_text()
    num_results = len(written.splitlines()) if task == "nlvr2" else len(json.loads(written))
    assert num_results == NUM_SAMPLES
    convert(ConvertOptions(exports[task], tmp_path / "theirs", to="beit3", from_="safetensors"))
    (file,) = (tmp_path / "theirs").glob("*.pth")
    subject, found = evaluate_source(EvaluateOptions(file, results=results, **options))  # type: ignore[arg-type]
    assert subject.startswith(str(file)) and results.read_text() == written
    assert found == pytest.approx(figures, abs=1e-5)


@pytest.mark.parametrize(
    "num_ranks", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_ranks_share_the_captions_and_find_the_same_figures(
    num_ranks: int, exports: dict[Task, Path], shards: dict[Task, Path], tmp_path: Path
) -> None:
    """Compare what the command prints and writes with the figures of this process. Beams end at other steps."""
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    export, held_out = exports["caption"], shards["caption"]
    subject, figures = evaluate_source(
        EvaluateOptions(export, held_out=str(held_out), chunk_size=2, num_beams=2, results=alone)
    )
    assert "captions by 2 beams, length penalty 0.6" in subject
    arguments = [export, "--held-out", held_out, "--chunk-size", 2, "--num-beams", 2, "--results", together]
    ended = run_ranks(num_ranks, "pretrain.evaluate", ["--local_rank=0", *arguments])
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    printed = report(subject.replace(str(alone), str(together)), figures) + "\n"
    assert ended.stdout == [printed, *[""] * (num_ranks - 1)]
    assert together.read_bytes() == alone.read_bytes()


def test_a_test_split_has_results_and_no_figures(exports: dict[Task, Path], tmp_path: Path) -> None:
    questions: list[dict[str, object]] = [{"question_id": number} for number in (7, 9)]
    folder = write_by_hand(tmp_path / "test", "vqa", questions, ANSWERS)
    results = tmp_path / "results.json"
    with pytest.raises(ValueError, match=r"holds a test split, without answers to compare with; give --results"):
        evaluate_source(EvaluateOptions(exports["vqa"], held_out=str(folder)))
    subject, figures = evaluate_source(EvaluateOptions(exports["vqa"], held_out=str(folder), results=results))
    assert report(subject, figures) == subject and subject.endswith(f"results of 2 in {results}")
    assert [entry["question_id"] for entry in json.loads(results.read_text())] == [7, 9]


def test_samples_that_cannot_be_read_are_not_counted_among_those_that_are_measured(
    exports: dict[Task, Path], tmp_path: Path
) -> None:
    questions: list[dict[str, object]] = [{"question_id": n, "answers": {ANSWERS[n]: 1.0}} for n in range(3)]
    folder = write_by_hand(tmp_path / "vqa", "vqa", questions, ANSWERS)
    tar = (folder / "0.tar").read_bytes()
    place = tar.rindex(b"\x89PNG") + 50
    (folder / "0.tar").write_bytes(tar[:place] + bytes([tar[place] ^ 1]) + tar[place + 1 :])
    subject, _ = evaluate_source(EvaluateOptions(exports["vqa"], held_out=str(folder)))
    assert subject == f"{exports['vqa']}; 2 samples from {folder} (left out as unusable: 1)"


def test_the_list_of_answers_must_be_there_and_be_that_of_the_network(
    exports: dict[Task, Path], shards: dict[Task, Path], tmp_path: Path
) -> None:
    folder, held_out = shutil.copytree(exports["vqa"], tmp_path / "vqa"), str(shards["vqa"])
    (folder / ANSWERS_NAME).rename(tmp_path / "answers.txt")
    # the list beside the shards may have the same answers in another order
    with pytest.raises(ValueError, match=rf"there is no {ANSWERS_NAME} in {folder}; give the list that it was trained"):
        evaluate_source(EvaluateOptions(folder, held_out=held_out))
    given = EvaluateOptions(folder, held_out=held_out, answers=tmp_path / "answers.txt")
    assert evaluate_source(given)[1] == evaluate_source(EvaluateOptions(exports["vqa"], held_out=held_out))[1]
    (tmp_path / "answers.txt").write_text(answer_lines(ANSWERS[1:]))
    with pytest.raises(ValueError, match=rf"has {len(ANSWERS) - 1} lines, and .* chooses among {len(ANSWERS)}"):
        evaluate_source(given)


def test_options_of_other_networks_are_refused(exports: dict[Task, Path], tiny_data: TinyData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no held-out data; give --held-out"):
        evaluate_source(EvaluateOptions(exports["nlvr2"]))
    with pytest.raises(
        ValueError, match="--pairs is not for a network finetuned for a task, as .* is; give --held-out"
    ):
        evaluate_source(EvaluateOptions(exports["nlvr2"], pairs="pairs"))
    with pytest.raises(ValueError, match=r"must end in .csv"):
        evaluate_source(EvaluateOptions(exports["nlvr2"], held_out="shards", results=tmp_path / "results.json"))


def test_features_and_figures_are_of_the_same_square(exports: dict[Task, Path], tmp_path: Path) -> None:
    """Compare inputs of a wide image: of evaluation, of Python, and of a file in Microsoft's format."""
    buffer, picture = io.BytesIO(), Image.linear_gradient("L").rotate(90).resize((90, 30)).convert("RGB")
    picture.save(buffer, "png")
    members = [("a.png", buffer.getvalue()), ("a.json", json.dumps({"class": CLASSES[0], "label": 0}).encode())]
    write_tar(tmp_path / "wide/0.tar", members)
    (tmp_path / "wide" / CLASSES_NAME).write_text(class_lines(CLASSES))
    index_folder(tmp_path / "wide", "label")
    convert(ConvertOptions(exports["classify"], tmp_path / "theirs", to="beit3", from_="safetensors"))
    (file,) = (tmp_path / "theirs").glob("*.pth")
    expected = load_pretrained(exports["classify"]).inputs([picture.crop((30, 0, 60, 30))])
    for source in (exports["classify"], file):
        options = EvaluateOptions(source, held_out=str(tmp_path / "wide"))
        evaluation = prepare(options, torch.device("cpu"), check_shards=True).evaluation
        found = evaluation.inputs.of(evaluation.samples.batch([0])[0]).images
        assert torch.equal(found, expected) and torch.equal(load_pretrained(source).inputs([picture]), expected)


def test_microsofts_normalization_of_classes_is_used(
    exports: dict[Task, Path], shards: dict[Task, Path], tmp_path: Path
) -> None:
    """Another normalization gives another loss."""
    folder = shutil.copytree(exports["classify"], tmp_path / "export")
    write_preprocessing(Preprocessing(32), folder)
    losses = [
        evaluate_source(EvaluateOptions(source, held_out=str(shards["classify"])))[1]["loss/classify"]
        for source in (exports["classify"], folder)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3
