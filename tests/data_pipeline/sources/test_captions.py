"""Images with all of their captions, in each published layout, and what is wrong with one."""

from pathlib import Path
from typing import Any

import pytest

from data_pipeline.samples.records import Record
from data_pipeline.samples.tasks import CaptionAnnotation
from data_pipeline.sources.annotated import AnnotatedFields
from data_pipeline.sources.captions import captions_of_json, captions_of_json_lines
from data_pipeline.sources.entries import RefusedFileError
from data_pipeline.sources.readers import SourceOptions, read_records
from data_pipeline.texts.tokenizer import TextTokenizer
from tests.support.shard_files import keys, written
from tests.support.task_sources import draw_image, karpathy, nocaps, reader_of, write_json, write_lines
from tests.support.tiny_run import TinyData


def fields(root: Path) -> AnnotatedFields:
    return AnnotatedFields(root, "image", "caption")


def records(path: Path, *splits: str) -> list[Record]:
    return list(captions_of_json(path, fields(path.parent), splits))


def coco(*captions: str) -> dict[str, Any]:
    annotations = [{"image_id": 9, "id": number, "caption": text} for number, text in enumerate(captions)]
    return {"info": {}, "images": [{"id": 9, "file_name": "000000000009.jpg"}], "annotations": annotations}


def test_coco_gives_one_sample_per_image_with_all_its_captions(tmp_path: Path) -> None:
    draw_image(tmp_path / "val2017/000000000009.jpg")
    source = write_json(tmp_path / "captions_val2017.json", coco("A giraffe.", " A tall giraffe.\n"))
    index = written("caption", source, tmp_path / "out", columns=SourceOptions(image_root=tmp_path / "val2017"))
    assert keys(index) == ["000000000009"]
    reader = reader_of(tmp_path / "out")
    assert reader.annotation(0) == CaptionAnnotation(9, ("A giraffe.", "A tall giraffe."))
    assert reader.texts(0) == ("A giraffe.", "A tall giraffe.")


def test_the_captions_of_coco_are_in_one_order_for_pairs_and_captions(tmp_path: Path) -> None:
    content = coco("third", "first", "fourth", "second")
    for annotation, number in zip(content["annotations"], (11, 2, "a", 10), strict=True):
        annotation["id"] = number
    source = write_json(tmp_path / "captions_val2017.json", content)
    pairs = [record.text for record in read_records("pair", str(source), SourceOptions())]
    (record,) = records(source)
    assert record.metadata["captions"] == pairs == ["first", "second", "third", "fourth"]


def test_nocaps_is_read_with_captions_and_without_as_its_test_split(tmp_path: Path) -> None:
    content = {
        "info": {},
        "images": [nocaps(0), nocaps(1)],
        "annotations": [
            {"image_id": 0, "id": 0, "caption": "A baby."},
            {"image_id": 0, "id": 1, "caption": "A child."},
        ],
    }
    found = records(write_json(tmp_path / "nocaps_val_4500_captions.json", content))
    assert [record.metadata for record in found] == [
        {"image_id": 0, "captions": ["A baby.", "A child."]},
        {"image_id": 1, "captions": []},
    ]
    content.pop("annotations")
    found = records(write_json(tmp_path / "nocaps_test_image_info.json", content))
    assert [record.metadata["captions"] for record in found] == [[], []]


def test_karpathys_splits_are_chosen_and_others_counted(tmp_path: Path) -> None:
    images = [karpathy(391895, "test", ["A man.", "A bike."]), karpathy(60623, "restval", ["A girl."])]
    source = write_json(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    kept, other = records(source, "test")
    assert kept.metadata == {"image_id": 391895, "captions": ["A man.", "A bike."]}
    assert kept.image == tmp_path / "val2014/COCO_val2014_000000391895.jpg"
    assert other.problem == "image of another split than --image-splits (the first is of 'restval')"
    flickr = {
        name: value for name, value in karpathy(7, "train", ["A dog."]).items() if name not in ("filepath", "cocoid")
    }
    (record,) = records(write_json(tmp_path / "dataset_flickr30k.json", {"images": [flickr]}), "train")
    assert record.metadata["image_id"] == 7 and record.image == tmp_path / "COCO_val2014_000000000007.jpg"


def test_the_lines_of_microsofts_index_files_are_joined_by_image(tmp_path: Path, tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    draw_image(tmp_path / "val2014/a.jpg")
    draw_image(tmp_path / "val2014/b.jpg")
    lines = [
        {"image_path": "val2014/a.jpg", "text_segment": tokenizer.encode("a red circle"), "image_id": 1},
        {"image_path": "val2014/b.jpg", "text_segment": None, "image_id": 2},
        {"image_path": "val2014/a.jpg", "text_segment": tokenizer.encode("a circle"), "image_id": 1},
    ]
    source = write_lines(tmp_path / "coco_captioning.train.jsonl", lines)
    written("caption", source, tmp_path / "out", text_tokenizer=tokenizer.path)
    reader = reader_of(tmp_path / "out")
    assert reader.annotation(0) == CaptionAnnotation(1, ("a red circle", "a circle"))
    assert reader.annotation(1) == CaptionAnnotation(2, ())


def test_own_lines_and_lists_have_one_caption_or_several(tmp_path: Path) -> None:
    entries = [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "captions": ["two", "three"]}]
    for found in (
        records(write_json(tmp_path / "list.json", entries)),
        list(captions_of_json_lines(write_lines(tmp_path / "lines.jsonl", entries), fields(tmp_path))),
    ):
        assert [record.metadata for record in found] == [
            {"image_id": "a.jpg", "captions": ["one"]},
            {"image_id": "b.jpg", "captions": ["two", "three"]},
        ]


def test_each_bad_entry_is_named(tmp_path: Path) -> None:
    content = coco("A giraffe.", "A tall giraffe.")
    content["annotations"][1] |= {"image_id": 30}
    content["annotations"].append({"image_id": 9, "id": 5, "caption": None})
    content["images"].append(content["images"][0])
    problems = [record.problem for record in records(write_json(tmp_path / "captions.json", content))]
    assert problems == [
        "'caption' is missing or wrong (in {'caption': None, 'id': 5, 'image_id': 9})",
        None,
        "image id occurs twice (9)",
        "caption's image is not in the list of images",
    ]
    entries: list[dict[str, object]] = [
        {"image": "a.jpg", "caption": "one", "image_id": 1},
        {"image": "a.jpg", "caption": "two", "image_id": 2},
        {"image": "b.jpg", "caption": "three", "image_id": 1},
        {"image": "c.jpg", "title": "four"},
        {"image": "d.jpg", "caption": [5]},
        {"image": "e.jpg", "caption": 0},
    ]
    found = captions_of_json_lines(write_lines(tmp_path / "lines.jsonl", entries), fields(tmp_path))
    assert sorted(record.problem or "" for record in found) == [
        "",
        "'caption' is neither a text nor a list of texts (0)",
        "'caption' is neither a text nor a list of texts ([5])",
        "entry has neither 'caption' nor 'captions' (it has: image, title)",
        "image has two ids (1, 2)",
        "image id occurs twice (1)",
    ]


@pytest.mark.parametrize("content", [{"annotations": []}, [], {"images": [{"id": 9}], "annotations": []}, "captions"])
def test_a_file_of_another_layout_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(RefusedFileError, match="is neither COCO's or NoCaps' captions"):
        records(write_json(tmp_path / "captions.json", content))
