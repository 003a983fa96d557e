"""Images with a class: class folders, tars of them, Microsoft's index files, and labels that are wrong."""

import io
import tarfile
from pathlib import Path

import pytest

from data_pipeline.samples.answers import CLASSES_NAME, class_lines, read_classes
from data_pipeline.samples.tasks import ClassAnnotation
from data_pipeline.sources.annotated import AnnotatedFields
from data_pipeline.sources.entries import RefusedFileError
from data_pipeline.sources.labels import images_with_classes, sorted_classes
from data_pipeline.sources.task_readers import TaskOptions
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import GOOD, keys, written
from tests.support.task_sources import draw_image, reader_of, write_lines

FOLDERS = ("n01443537", "n01440764")


def class_folders(root: Path) -> Path:
    for number, name in enumerate(FOLDERS):
        draw_image(root / name / f"{name}_1.JPEG", number)
    return root


def test_class_folders_become_shards_with_labels_in_the_order_of_their_names(tmp_path: Path) -> None:
    index = written("label", class_folders(tmp_path / "train"), tmp_path / "out")
    assert keys(index) == ["n01440764_n01440764_1", "n01443537_n01443537_1"]
    reader = reader_of(tmp_path / "out")
    found = [reader.annotation(place) for place in (0, 1)]
    assert found == [ClassAnnotation("n01440764", 0), ClassAnnotation("n01443537", 1)]
    assert read_classes(tmp_path / "out" / CLASSES_NAME) == sorted(FOLDERS)


def test_imagenets_tar_of_tars_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in FOLDERS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                member = tarfile.TarInfo(f"{name}_1.JPEG")
                member.size = len(GOOD)
                tar.addfile(member, io.BytesIO(GOOD))
            entry = tarfile.TarInfo(f"{name}.tar")
            entry.size = len(inner.getvalue())
            outer.addfile(entry, io.BytesIO(inner.getvalue()))
    written("label", tmp_path / "ILSVRC2012_img_train.tar", tmp_path / "out")
    reader = reader_of(tmp_path / "out")
    assert [reader.annotation(place) for place in (0, 1)] == [
        ClassAnnotation(FOLDERS[0], 1),
        ClassAnnotation(FOLDERS[1], 0),
    ]


def test_a_given_class_list_labels_other_data_and_names_other_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(class_lines(["n0", "n01443537", "n2"]))
    draw_image(tmp_path / "val" / "stray.png")
    options = TaskOptions(classes=tmp_path / "classes.txt")
    source = str(class_folders(tmp_path / "val"))
    report = write_shards(ShardOptions("label", source, tmp_path / "out", tasks=options, num_workers=1))
    assert reader_of(tmp_path / "out").annotation(0) == ClassAnnotation("n01443537", 1)
    assert dict(report.skipped) == {"class is not in the class list": 1, "image lies in no class folder": 1}
    assert read_classes(tmp_path / "out" / CLASSES_NAME) == ["n0", "n01443537", "n2"]


def test_microsofts_index_file_is_named_by_the_class_list_and_labels_out_of_range_are_named(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        draw_image(tmp_path / "train" / f"{name}.JPEG", number)
    lines = [{"image_path": "/train/a.JPEG", "label": 1}, {"image_path": "/train/b.JPEG", "label": 2}]
    source = write_lines(tmp_path / "imagenet.train.index.jsonl", [*lines, {**lines[0], "label": True}])
    fields = AnnotatedFields(tmp_path, "image", "caption")
    found = list(images_with_classes(source, fields, ["tench", "goldfish"]))
    assert found[0].metadata == {"class": "goldfish"} and found[0].image == tmp_path / "train/a.JPEG"
    assert [record.problem for record in found[1:]] == [
        "label is out of range (2 of 2 classes)",
        "label is neither a number nor the name of a class (True)",
    ]
    written("label", source, tmp_path / "out")  # without a list, numbers are the names of classes
    assert read_classes(tmp_path / "out" / CLASSES_NAME) == ["1", "2"]
    reader = reader_of(tmp_path / "out")
    assert [reader.annotation(place) for place in (0, 1)] == [ClassAnnotation("1", 0), ClassAnnotation("2", 1)]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 2, 7)])
def test_a_number_means_the_same_class_in_held_out_data(numbers: tuple[int, ...], tmp_path: Path) -> None:
    """As in sets that count from 1, or of which only some classes are used."""
    draw_image(tmp_path / "a.png")
    source = write_lines(tmp_path / "train.jsonl", [{"image": "a.png", "label": number} for number in numbers])
    written("label", source, tmp_path / "train")
    held_out = write_lines(tmp_path / "val.jsonl", [{"image": "a.png", "label": n} for n in (*numbers, 9)])
    options = TaskOptions(classes=tmp_path / "train" / CLASSES_NAME)
    report = write_shards(ShardOptions("label", str(held_out), tmp_path / "val", tasks=options, num_workers=1))
    found = [reader_of(tmp_path / "val").annotation(place) for place in range(3)]
    assert found == [ClassAnnotation(str(number), label) for label, number in enumerate(numbers)]
    assert dict(report.skipped) == {"class is not in the class list": 1}


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    draw_image(tmp_path / "elsewhere" / "a.png")
    line = {"image": str(tmp_path / "elsewhere" / "a.png"), "label": 0}
    source = write_lines(tmp_path / "lines" / "train.jsonl", [line])
    (record,) = images_with_classes(source, AnnotatedFields(tmp_path / "lines", "image", "caption"), None)
    assert record.image == tmp_path / "elsewhere" / "a.png"


def test_classes_are_in_the_order_of_their_names_or_numbers() -> None:
    assert sorted_classes({"b", "10", "9"}) == ["10", "9", "b"]
    assert sorted_classes({"10", "9", "0"}) == ["0", "9", "10"]
    # the order of a set differs from process to process
    assert [sorted_classes(names) for names in ({"1", "01", "001"}, {"01", "001", "1"})] == [["001", "01", "1"]] * 2
    assert sorted_classes({"9" * 5000, "10"}) == ["10", "9" * 5000]


def test_sources_without_classes_are_refused(tmp_path: Path) -> None:
    draw_image(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match="holds no image with a class; give class folders, or lines with a label"):
        written("label", tmp_path / "images", tmp_path / "out")
    source = write_lines(tmp_path / "images.jsonl", [{"image": "a.png"}])
    with pytest.raises(RefusedFileError, match="no JSON lines with 'image' and 'label'"):
        written("label", source, tmp_path / "out")
