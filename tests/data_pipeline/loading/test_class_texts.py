"""Texts of labelled images: names, templates and mistakes in them, and shards of classes among pairs. CPU, seconds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.files.remote_files import public_url
from data_pipeline.loading.class_texts import ClassTexts, open_class_texts
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset, hash_of_text
from data_pipeline.samples.answers import CLASSES_NAME, class_lines, read_classes
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.samples.tasks import ClassAnnotation
from data_pipeline.texts.prompts import DEFAULT_TEMPLATES
from tests.support.data_configs import IMAGE_SIZE, local_config
from tests.support.shared_folders import shared_folder
from tests.support.task_data import write_scenes
from tests.support.tiny_run import TinyData

PER_STEP = SamplesPerStep(images=0, pairs=8, texts=0)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield shards of 48 labelled images. Read only."""

    def write(folder: Path) -> None:
        write_scenes(folder / "shards", "classify", 48)

    with shared_folder(tmp_path_factory, "label_shards", write) as folder:
        yield folder / "shards"


def of_classes(data: TinyData, labelled: Path, **changes: object) -> DataConfig:
    return replace(local_config(data), pairs=(str(labelled),), **changes)  # type: ignore[arg-type]


def test_a_labelled_image_is_paired_with_the_name_of_its_class_in_a_template_drawn_by_its_id(
    tiny_data: TinyData, labelled: Path
) -> None:
    dataset = StepDataset(of_classes(tiny_data, labelled), PER_STEP, IMAGE_SIZE, seed=3)
    assert dataset.tokenizer is not None and dataset.class_texts is not None
    name_of = {}
    reader = dataset.kinds["pair"].sources[0].reader
    for sample in range(reader.index.num_samples):
        annotation = reader.annotation(sample)
        assert isinstance(annotation, ClassAnnotation)
        name_of[reader.key(sample)] = annotation.name
    templates = set()
    for step in range(6):
        batch = dataset[step]
        assert not batch.failure and not batch.bad_samples
        for row, (key, ids) in enumerate(zip(batch.keys, batch.caption_ids, strict=True)):
            name = name_of[key]
            text = dataset.class_texts.text(name, seed=3, sample_id=step * 8 + row)
            assert ids.tolist() == dataset.tokenizer.encode_to_length(text, 20)
            templates.add(text.replace(name, "{}"))
            assert batch.caption_hashes[row] == hash_of_text(name)
    assert templates == set(DEFAULT_TEMPLATES)


def test_ranks_and_micro_steps_hold_parts_of_the_same_texts(tiny_data: TinyData, labelled: Path) -> None:
    config = of_classes(tiny_data, labelled)
    whole = StepDataset(config, PER_STEP, IMAGE_SIZE, seed=3)[4]
    parts = [
        part for rank in range(2) for part in StepDataset(config, PER_STEP, IMAGE_SIZE, 3, rank, 2)[4].micro_batches(2)
    ]
    for name in ("images", "caption_ids", "caption_hashes"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_pairs_and_labelled_images_are_mixed(tiny_data: TinyData, labelled: Path) -> None:
    config = replace(local_config(tiny_data), pairs=(str(labelled), str(tiny_data.folder / "pairs")))
    dataset = StepDataset(config, PER_STEP, IMAGE_SIZE, seed=3)
    assert all(not dataset[step].failure for step in range(3))
    assert len([line for line in dataset.describe() if "<unk>" in line]) == 2
    again = StepDataset(config, PER_STEP, IMAGE_SIZE, seed=3)
    hashes = [batch.caption_hashes.tolist() for batch in (dataset[1], again[1])]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) > 1


def test_other_names_or_templates_are_other_data(tiny_data: TinyData, labelled: Path, tmp_path: Path) -> None:
    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    classes = read_classes(labelled / CLASSES_NAME)
    names.write_text("".join(f"{name} here\n" for name in classes))
    templates.write_text("one {}\n")
    changes: list[dict[str, object]] = [{}, {"class_names": names}, {"templates": templates}]
    found = [
        StepDataset(of_classes(tiny_data, labelled, **change), PER_STEP, IMAGE_SIZE, 3).fingerprints["pair"]
        for change in changes
    ]
    assert len(set(found)) == 3
    texts = open_class_texts(of_classes(tiny_data, labelled, class_names=names, templates=templates), [str(labelled)])
    assert texts.text(texts.name(ClassAnnotation(classes[0], 0)), 0, 5) == f"one {classes[0]} here"


def test_mistakes_are_named(tiny_data: TinyData, tmp_path: Path) -> None:
    config = local_config(tiny_data)
    with pytest.raises(ValueError, match=r"list .*classes\.txt does not exist"):
        open_class_texts(config, [str(tmp_path)])
    with pytest.raises(ValueError, match="is not looked for at the URL s3://bucket/classes; .* --data.classes"):
        open_class_texts(config, [public_url("s3://bucket/classes")])
    listed = tmp_path / CLASSES_NAME
    listed.write_text(class_lines(["n01440764", "n01443537"]))
    with pytest.raises(ValueError, match="n01440764 is not a word; give data.class_names a file with a name for each"):
        open_class_texts(config, [str(tmp_path)])
    names = tmp_path / "names.json"
    names.write_text('{"n01440764": "tench", "n01443537": "goldfish"}')
    found = open_class_texts(replace(config, classes=listed, class_names=names), ["s3://bucket/classes"])
    assert found.names == {"n01440764": "tench", "n01443537": "goldfish"}
    with pytest.raises(BadSampleError, match=r"class is not in the class list \('owl'\)"):
        found.name(ClassAnnotation("owl", 2))


def test_the_tokenizer_has_to_cover_the_names(tiny_data: TinyData) -> None:
    tokenizer = StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, 0).tokenizer
    assert tokenizer is not None
    assert not ClassTexts({"a": "red circle"}, ["{}"]).covered_share(tokenizer).warning
    assert ClassTexts({"a": "red", "b": "\u732b"}, ["{}"]).covered_share(tokenizer).warning
