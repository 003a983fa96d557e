"""The loader of tasks: the same global batch on any number of ranks, workers and micro-steps, and bad samples."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from data_pipeline.images.imagenet_augment import ImageNetAugment
from data_pipeline.images.rand_augment import RandAugment
from data_pipeline.images.transform import Augment, ImageTransform
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.loading.shard_dataset import sample_generator
from data_pipeline.loading.task_batch import TaskBatch
from data_pipeline.loading.task_dataset import TaskDataset
from data_pipeline.samples.answers import ANSWERS_NAME, answer_lines
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.tasks import CaptionAnnotation, ClassAnnotation, Nlvr2Annotation, Task, VqaAnnotation
from data_pipeline.texts.tokenizer import TextTokenizer
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import GOOD, index_folder, write_tar
from tests.support.task_data import TEXT_LENGTH, task_config, write_scenes
from tests.support.task_sources import reader_of
from tests.support.tiny_run import TinyData

TASKS: tuple[Task, ...] = get_args(Task)
PER_STEP, IMAGE_SIZE = 8, 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Path]:
    root = tmp_path_factory.mktemp("tasks")
    return {task: write_scenes(root / task, task) for task in TASKS}


def dataset(folder: Path, task: Task, data: TinyData, rank: int = 0, world_size: int = 1) -> TaskDataset:
    config = task_config(folder, data.folder / "text_tokenizer.spm")
    return TaskDataset(config, task, PER_STEP, IMAGE_SIZE, 3, rank, world_size)


def joined(parts: list[TaskBatch]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()}


@pytest.mark.parametrize("task", TASKS)
def test_the_ranks_and_micro_steps_make_up_the_global_batch_to_the_byte(
    task: Task, folders: dict[Task, Path], tiny_data: TinyData
) -> None:
    whole = dataset(folders[task], task, tiny_data)
    for step in (0, 57):
        batch = whole[step]
        assert not batch.failure and batch.step == step
        assert batch.sample_ids.tolist() == list(range(step * PER_STEP, (step + 1) * PER_STEP))
        ranks = [dataset(folders[task], task, tiny_data, rank, 2)[step] for rank in range(2)]
        for parts in (ranks, batch.micro_batches(4)):
            found = joined(parts)
            assert found.keys() == batch.tensors().keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in batch.tensors().items())
            assert [key for part in parts for key in part.keys] == batch.keys
            assert sum((part.text_lengths for part in parts), ()) == batch.text_lengths


def test_workers_read_the_same_batches_after_a_restart(folders: dict[Task, Path], tiny_data: TinyData) -> None:
    whole = dataset(folders["vqa"], "vqa", tiny_data)
    for batch in step_batches(whole, 5, 7, num_workers=1):
        expected = whole[batch.step].tensors()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in batch.tensors().items())


@pytest.mark.parametrize("task", TASKS)
def test_targets_are_those_of_the_annotations(task: Task, folders: dict[Task, Path], tiny_data: TinyData) -> None:
    reader = reader_of(folders[task])
    samples = {reader.key(place): place for place in range(reader.index.num_samples)}
    batch = dataset(folders[task], task, tiny_data)[1]
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    for row, key in enumerate(batch.keys):
        annotation = reader.annotation(samples[key])
        if isinstance(annotation, CaptionAnnotation):
            assert batch.targets is None
        else:
            assert batch.targets is not None
            target = batch.targets[row]
            if isinstance(annotation, VqaAnnotation):
                assert annotation.answers == {LABELS["vqa"][int(target.argmax())]: float(target.sum())}
            elif isinstance(annotation, Nlvr2Annotation | ClassAnnotation):
                assert target == annotation.label
        if batch.text_ids is None:
            assert task == "classify"
        else:
            texts = [tokenizer.encode_to_length(text, TEXT_LENGTH) for text in reader.texts(samples[key])]
            assert batch.text_ids[row].tolist() in texts
    assert (batch.second_images is not None) == (task == "nlvr2")


def test_the_caption_of_a_step_is_drawn_by_the_sample_and_all_captions_are_seen(
    folders: dict[Task, Path], tiny_data: TinyData
) -> None:
    seen: dict[str, set[tuple[int, ...]]] = {}
    data = dataset(folders["caption"], "caption", tiny_data)
    for step in range(30):
        batch = data[step]
        assert batch.text_ids is not None
        for key, ids in zip(batch.keys, batch.text_ids.tolist(), strict=True):
            seen.setdefault(key, set()).add(tuple(ids))
    assert len(seen) == 24 and sum(len(texts) == 2 for texts in seen.values()) > 20


def test_pairs_are_drawn_from_shards_of_captions(folders: dict[Task, Path], tiny_data: TinyData) -> None:
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    config = DataConfig(pairs=(str(folders["caption"]),), text_tokenizer=tokenizer, caption_length=TEXT_LENGTH)
    pairs = StepDataset(replace(config, num_lanes=2), SamplesPerStep(0, PER_STEP, 0), IMAGE_SIZE, 3)
    reader, encode = reader_of(folders["caption"]), TextTokenizer(tokenizer).encode_to_length
    texts = {reader.key(place): reader.texts(place) for place in range(reader.index.num_samples)}
    drawn = set[int]()
    for batch in (pairs[step] for step in range(3)):
        for key, ids in zip(batch.keys, batch.caption_ids.tolist(), strict=True):
            drawn.add([encode(text, TEXT_LENGTH) for text in texts[key]].index(ids))
    assert drawn == {0, 1}


def test_augmentation_of_both_images_is_drawn_apart(tmp_path: Path, tiny_data: TinyData) -> None:
    drawn = reader_of(write_scenes(tmp_path / "drawn", "classify", 1)).image_bytes(0)
    members = [(f"{n}.{e}", c) for n in range(8) for e, c in (("png", drawn), ("image2.png", drawn), ("txt", b"a"))]
    members += [(f"{n}.json", b'{"identifier": "a", "label": 1}') for n in range(8)]
    write_tar(tmp_path / "same" / "0.tar", members)
    index_folder(tmp_path / "same", "nlvr2")
    batch = dataset(tmp_path / "same", "nlvr2", tiny_data)[0]
    assert batch.second_images is not None
    assert not (batch.images == batch.second_images).flatten(1).all(1).any()


@pytest.mark.parametrize(("task", "augment"), [("classify", ImageNetAugment()), ("vqa", RandAugment())])
def test_views_of_classes_get_imagenets_operations_and_others_the_ten_of_tasks(
    task: Task, augment: Augment, folders: dict[Task, Path], tiny_data: TinyData
) -> None:
    config = task_config(folders[task], tiny_data.folder / "text_tokenizer.spm", rand_augment=True)
    batch, reader = TaskDataset(config, task, PER_STEP, IMAGE_SIZE, 3)[1], reader_of(folders[task])
    samples = {reader.key(place): place for place in range(reader.index.num_samples)}
    transform = ImageTransform(IMAGE_SIZE, config.min_crop_scale, 0, config.horizontal_flip, 10**6, augment)
    for key, sample_id, image in zip(batch.keys, batch.sample_ids.tolist(), batch.images, strict=True):
        expected = transform(reader.image_bytes(samples[key]), sample_generator(3, sample_id))
        assert image.tolist() == expected.tolist()


def test_bad_samples_are_named_and_replaced(tmp_path: Path, tiny_data: TinyData) -> None:
    contents = {
        "a": b'{"question_id": 1, "answers": {"red": 1}}',
        "b": b'{"question_id": 2, "answers": {"mauve": 1}}',
        "c": b'{"question_id": 3}',
        "d": b'{"question_id": 4, "answers": {"red": 2}}',
    }
    members = [(f"{key}.{e}", c) for key in contents for e, c in (("png", GOOD), ("txt", b"a circle"))]
    write_tar(tmp_path / "0.tar", [*members, *((f"{key}.json", content) for key, content in contents.items())])
    index_folder(tmp_path, "vqa")
    (tmp_path / ANSWERS_NAME).write_text(answer_lines(["blue", "red"]))
    batch = dataset(tmp_path, "vqa", tiny_data)[0]
    assert set(batch.keys) == {"a"} and batch.targets is not None and batch.targets.tolist() == [[0, 1]] * PER_STEP
    assert {(bad.key, bad.reason) for bad in batch.bad_samples} == {
        ("b", "no answer of the question is in the answer list (mauve)"),
        ("c", "sample has no label, as those of a test split"),
        ("d", "score of an answer is not from 0 to 1 ('red': 2)"),
    }


def test_a_batch_that_cannot_be_read_is_empty_with_its_shapes(folders: dict[Task, Path], tiny_data: TinyData) -> None:
    for task in TASKS:
        data = dataset(folders[task], task, tiny_data)
        failed, whole = data.failed(5, "the disk is gone", []), data[5]
        assert failed.failure == "the disk is gone" and failed.keys == []
        assert {n: (0, *t.shape[1:]) for n, t in whole.tensors().items()} == {
            n: tuple(t.shape) for n, t in failed.tensors().items()
        }


def test_mistakes_of_the_data_are_named(tmp_path: Path, folders: dict[Task, Path], tiny_data: TinyData) -> None:
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    with pytest.raises(ValueError, match="holds shards of kind 'label', not 'vqa'; give the right folder"):
        config = task_config(folders["classify"], tokenizer, answers=folders["vqa"] / ANSWERS_NAME)
        TaskDataset(config, "vqa", PER_STEP, IMAGE_SIZE, 3)
    with pytest.raises(ValueError, match=r"holds shards of kind 'label', not 'vqa'; give the right folder"):
        dataset(folders["classify"], "vqa", tiny_data)
    without = shutil.copytree(folders["vqa"], tmp_path / "without")
    (without / ANSWERS_NAME).unlink()
    with pytest.raises(ValueError, match=r"answer2label\.txt does not exist; .*; to use another, give --data\.answers"):
        dataset(without, "vqa", tiny_data)
    with pytest.raises(ValueError, match=r"task nlvr2 needs data\.text_tokenizer"):
        TaskDataset(task_config(folders["nlvr2"], None), "nlvr2", PER_STEP, IMAGE_SIZE, 3)
    with pytest.raises(ValueError, match="8 samples per step must be a multiple of the 3 ranks"):
        dataset(folders["nlvr2"], "nlvr2", tiny_data, world_size=3)
    config = replace(task_config(folders["nlvr2"], tokenizer), shards=())
    with pytest.raises(ValueError, match=r"8 samples per step need a source; set data\.shards"):
        TaskDataset(config, "nlvr2", PER_STEP, IMAGE_SIZE, 3)
    write_shards(ShardOptions("nlvr2", "scenes:1", tmp_path / "few", num_workers=1))
    with pytest.raises(ValueError, match=r"holds 1 samples, fewer than data\.num_lanes 2"):
        dataset(tmp_path / "few", "nlvr2", tiny_data)
