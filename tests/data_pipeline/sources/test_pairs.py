"""Captions that are missing, shifted or of another type. CPU, seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.samples.records import Record
from data_pipeline.sources.readers import SourceOptions, read_records


def pairs(source: Path) -> list[Record]:
    return list(read_records("pair", str(source), SourceOptions()))


def coco(**changes: object) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 9, "caption": "A giraffe."}
    content: dict[str, Any] = {
        "images": [{"id": 9, "file_name": "000000000009.jpg"}],
        "annotations": [annotation, {**annotation, "id": 2}],
    }
    return {**content, **changes}


def test_an_image_without_captions_and_a_caption_without_image_are_skipped_with_a_reason(tmp_path: Path) -> None:
    images = [*coco()["images"], {"id": 25, "file_name": "000000000025.jpg"}]
    annotations = [*coco()["annotations"], {"id": 3, "image_id": 30, "caption": "A cat."}]
    path = tmp_path / "captions_train2017.json"
    path.write_text(json.dumps(coco(images=images, annotations=annotations)))
    assert [(record.key, record.problem) for record in pairs(path)] == [
        ("000000000009_0", None),
        ("000000000009_1", None),
        ("000000000025", "image has no captions"),
        ("30_0", "caption's image is not in the list of images"),
    ]


def test_visual_genomes_image_ids_are_found_under_either_name(tmp_path: Path) -> None:
    regions = [{"region_id": 1, "phrase": "a clock"}]
    path = tmp_path / "region_descriptions.json"
    path.write_text(json.dumps([{"id": 1, "regions": regions}, {"image_id": 2, "regions": regions}]))
    assert [(record.key, record.text) for record in pairs(path)] == [("1_0", "a clock"), ("2_0", "a clock")]


@pytest.mark.parametrize(
    "content",
    [
        coco(annotations=[{"id": 1, "image_id": 9, "bbox": [0, 0, 5, 5], "category_id": 18}]),
        coco(annotations=[{"id": 1, "image_id": 9, "caption": 5}]),
        coco(images=[{"id": 9}]),
        [{"regions": [{"phrase": "a clock"}]}],
        [{"id": 1, "regions": [{"phrase": None}]}],
        [1, 2, 3],
        [],
        "captions",
        {"image_urls": ["http://a/1.jpg"], "captions": ["one", "two"]},
        {"image_urls": ["http://a/1.jpg"]},
    ],
)
def test_json_of_another_kind_is_refused_by_name(content: object, tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances\.json is neither COCO captions"):
        pairs(tmp_path / "instances.json")


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_that_is_nested_too_deeply_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"deep{suffix}").write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(
        ValueError, match=f"deep{suffix} (is not valid JSON|has no JSON lines .*line is not valid JSON)"
    ):
        pairs(tmp_path / f"deep{suffix}")


@pytest.fixture
def sbu(tmp_path: Path) -> Callable[[bytes], list[Record]]:
    """Write three URLs beside the given captions."""
    urls = "".join(f"http://static.flickr.com/2723/{number}.jpg\n" for number in range(3))
    (tmp_path / "SBU_captioned_photo_dataset_urls.txt").write_text(urls)

    def read(captions: bytes) -> list[Record]:
        path = tmp_path / "SBU_captioned_photo_dataset_captions.txt"
        path.write_bytes(captions)
        return pairs(path)

    return read


def test_a_carriage_return_in_a_caption_shifts_no_other(sbu: Callable[[bytes], list[Record]]) -> None:
    found = sbu(b"a chair\rin the room\r\na table\r\na lamp\r\n")
    assert [(record.key, record.text) for record in found] == [
        ("0", "a chair\rin the room"),
        ("1", "a table"),
        ("2", "a lamp"),
    ]


def test_as_many_captions_as_urls_are_demanded(sbu: Callable[[bytes], list[Record]]) -> None:
    for captions in (b"one\ntwo\n", b"one\ntwo\nthree\nfour\n"):
        with pytest.raises(ValueError, match=r"captions\.txt has \d lines and .*urls\.txt has 3"):
            sbu(captions)
