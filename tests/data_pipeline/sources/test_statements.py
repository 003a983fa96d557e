"""Statements about two images: NLVR2's files and folders, Microsoft's index files, and what is wrong with a line."""

from pathlib import Path

import pytest

from data_pipeline.samples.tasks import Nlvr2Annotation
from data_pipeline.sources.annotated import AnnotatedFields
from data_pipeline.sources.entries import RefusedFileError
from data_pipeline.sources.statements import statements_of_json_lines
from data_pipeline.texts.tokenizer import TextTokenizer
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import keys, written
from tests.support.task_sources import draw_image, reader_of, statement, write_lines
from tests.support.tiny_run import TinyData


def draw_pair(folder: Path, pair: str) -> tuple[bytes, bytes]:
    paths = [folder / f"{pair}-img{side}.png" for side in (0, 1)]
    for number, path in enumerate(paths):
        draw_image(path, number)
    return paths[0].read_bytes(), paths[1].read_bytes()


def test_nlvr2_becomes_shards_with_both_images_in_their_order(tmp_path: Path) -> None:
    images = draw_pair(tmp_path / "images/train/36", "train-10171-0")
    lines = [statement("train-10171-0-0", "True", 36), statement("train-10171-0-1", "False", 36)]
    source = write_lines(tmp_path / "train.json", lines)
    index = written("nlvr2", source, tmp_path / "out")
    assert keys(index) == ["train-10171-0-0", "train-10171-0-1"]
    reader = reader_of(tmp_path / "out")
    for place in (0, 1):
        assert (reader.image_bytes(place), reader.image_bytes(place, "image2")) == images
        assert reader.text(place).startswith("The left image contains twice")
        assert reader.annotation(place) == Nlvr2Annotation(f"train-10171-0-{place}", 1 - place)


@pytest.mark.parametrize("folder", ["dev", ""])
def test_images_of_dev_are_found_in_its_folder_or_directly(tmp_path: Path, folder: str) -> None:
    draw_pair(tmp_path / folder, "dev-850-0")
    source = write_lines(tmp_path / "dev.json", [statement("dev-850-0-0", "True")])
    (record,) = statements_of_json_lines(source, AnnotatedFields(tmp_path, "image", "sentence"))
    assert isinstance(record.image, Path) and isinstance(record.image2, Path)
    assert record.image.name == "dev-850-0-img0.png" and record.image.is_file() and record.image2.is_file()


def test_statements_of_a_test_split_have_no_label(tmp_path: Path) -> None:
    draw_pair(tmp_path / "test1", "test1-0-1")
    written("nlvr2", write_lines(tmp_path / "test1.json", [statement("test1-0-1-0", None)]), tmp_path / "out")
    assert reader_of(tmp_path / "out").annotation(0) == Nlvr2Annotation("test1-0-1-0", None)


def test_microsofts_index_file_is_read(tmp_path: Path, tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    images = draw_pair(tmp_path / "dev", "dev-1-0")
    line = {
        "image_path": "dev/dev-1-0-img0.png",
        "image2_path": "dev/dev-1-0-img1.png",
        "text_segment": tokenizer.encode("a red circle"),
        "label": 1,
        "identifier": "dev-1-0-0",
    }
    source = write_lines(tmp_path / "nlvr2.dev.index.jsonl", [line])
    written("nlvr2", source, tmp_path / "out", text_tokenizer=tokenizer.path)
    reader = reader_of(tmp_path / "out")
    assert reader.text(0) == "a red circle" and reader.annotation(0) == Nlvr2Annotation("dev-1-0-0", 1)
    assert (reader.image_bytes(0), reader.image_bytes(0, "image2")) == images


def test_each_bad_statement_is_named(tmp_path: Path) -> None:
    draw_pair(tmp_path / "dev", "dev-1-0")
    draw_pair(tmp_path / "dev", "dev-2-0")
    (tmp_path / "dev/dev-2-0-img1.png").unlink()
    lines = [
        statement("dev-1-0-0", "True"),
        statement("dev-1-0-0", "True"),
        statement("dev-2-0-0", "True"),
        statement("dev-1-0-1", "Maybe"),
        {**statement("dev-1-0-2", None), "label": 2},
        {**statement("dev", "True")},
    ]
    source = write_lines(tmp_path / "dev.json", lines)
    report = write_shards(ShardOptions("nlvr2", str(source), tmp_path / "out", num_workers=1))
    missing = str(tmp_path / "dev/dev-2-0-img1.png")
    assert report.num_kept == 1
    assert report.examples == {
        "identifier occurs twice": f"{source}:2 ('dev-1-0-0')",
        "image file does not exist": f"{source}:3 ({missing})",
        "label is out of range": f"{source}:4 ('Maybe' is neither true nor false)",
        "identifier does not end in the number of the statement": f"{source}:6 ('dev')",
    }
    assert report.skipped["label is out of range"] == 2


def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "dev.json", [{"image": "a.png", "sentence": "one image only", "label": 1}])
    with pytest.raises(RefusedFileError, match="no text in field 'image2'"):
        list(statements_of_json_lines(source, AnnotatedFields(tmp_path, "image", "sentence")))
