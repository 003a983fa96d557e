"""JSON objects with an image and one or several captions."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from data_pipeline.samples.records import Record, read_image
from data_pipeline.samples.sample import Kind
from data_pipeline.sources.readers import SourceOptions, read_records


def pairs(source: Path) -> list[Record]:
    return list(read_records("pair", str(source), SourceOptions()))


def test_a_line_of_json_without_image_or_caption_is_skipped_but_for_the_first(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"image": "a.jpg", "caption": "one"},
        {"image": "b.jpg", "caption": None},
        {"image": "c.jpg"},
        {"image": "d.jpg", "caption": []},
        {"image": "e.jpg", "caption": ["two", 3]},
        {"image": None, "caption": "four"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    no_caption, no_image = (f"line has no text in field '{name}'" for name in ("caption", "image"))
    assert [(record.key, record.text, record.problem) for record in pairs(path)] == [
        ("a", "one", None),
        ("00000001", None, f"{no_caption} (None)"),
        ("00000002", None, f"{no_caption} (it has: image)"),
        ("00000003", None, f"{no_caption} ([])"),
        ("e_0", "two", None),
        ("00000004", None, f"{no_caption} (element 1 of its list)"),
        ("00000005", None, f"{no_image} (None)"),
    ]
    path.write_text(json.dumps({"image": "c.jpg", "title": "one"}))
    with pytest.raises(
        ValueError, match=r"has no text in field 'caption' \(it has: image, title\)\); name the fields with"
    ):
        pairs(path)


def picture(red: int, image_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (red, 0, 0)).save(buffer, image_format)
    return buffer.getvalue()


def records(kind: Kind, source: Path, **options: object) -> list[Record]:
    return list(read_records(kind, str(source), SourceOptions(**options)))  # type: ignore[arg-type]


def contents(found: list[Record]) -> list[tuple[str, bytes | None, str | None]]:
    return [(r.key, None if r.image is None else read_image(r.image), r.text) for r in found]


def test_json_lines_with_one_or_several_captions(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    lines = [{"image": "a.jpg", "caption": ["one", "two"]}, {"image": "a.jpg", "caption": "three"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = contents(records("pair", tmp_path / "pairs.jsonl"))
    assert found == [("a_0", picture(1), "one"), ("a_1", picture(1), "two"), ("a", picture(1), "three")]
    assert contents(records("image", tmp_path / "pairs.jsonl")) == [("a", picture(1), None)]


def test_a_list_of_objects_in_one_json_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    content = [{"image": "a.jpg", "caption": "one"}, {"image": "a.jpg", "caption": ["two", "three"], "image_id": 5}]
    (tmp_path / "coco_karpathy_train.json").write_text(json.dumps(content))
    assert contents(records("pair", tmp_path / "coco_karpathy_train.json")) == [
        ("a", picture(1), "one"),
        ("a_0", picture(1), "two"),
        ("a_1", picture(1), "three"),
    ]
    with pytest.raises(
        ValueError, match=r"nor a list of objects .*\(it has: image, title\)\); name the fields of a list with"
    ):
        (tmp_path / "other.json").write_text(json.dumps([{"image": "a.jpg", "title": "one"}]))
        records("pair", tmp_path / "other.json")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_list_of_captions_is_a_pair_each(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    rows = [{"image": "a.jpg", "caption": ["one", "two"]}, {"image": "a.jpg", "caption": ["three"]}]
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert contents(records("pair", path)) == [
        ("a_0", picture(1), "one"),
        ("a_1", picture(1), "two"),
        ("a_0", picture(1), "three"),
    ]
