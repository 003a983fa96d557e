"""A bad entry costs one sample, wherever it is; a file of another layout is refused at once. CPU, seconds."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import Kind
from data_pipeline.sources.entries import FIRST_ENTRIES, RefusedFileError
from data_pipeline.sources.readers import SourceOptions, read_records

BAD_CAPTIONS: list[Any] = [None, 5, float("nan"), True, {"text": "a"}, [], ["", None][1:]]
NUM_GOOD = 3


def records(kind: Kind, source: Path, **options: object) -> list[Record]:
    return list(read_records(kind, str(source), SourceOptions(**options)))  # type: ignore[arg-type]


def coco(path: Path, captions: list[Any]) -> str:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(len(captions))]
    annotations = [{"id": n, "image_id": n, "caption": caption} for n, caption in enumerate(captions)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return ": annotations[{}]"


def karpathy(path: Path, captions: list[Any]) -> str:
    images = [{"filename": f"{n}.jpg", "sentences": [{"raw": caption}]} for n, caption in enumerate(captions)]
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return ": images[{}]"


def visual_genome(path: Path, captions: list[Any]) -> str:
    path.write_text(json.dumps([{"id": n, "regions": [{"phrase": caption}]} for n, caption in enumerate(captions)]))
    return ": [{}].regions[0]"


def list_of_objects(path: Path, captions: list[Any]) -> str:
    path.write_text(json.dumps([{"image": f"{n}.jpg", "caption": caption} for n, caption in enumerate(captions)]))
    return ": [{}]"


def sbu(path: Path, captions: list[Any]) -> str:
    urls = [f"http://a/{number}.jpg" for number in range(len(captions))]
    path.write_text(json.dumps({"image_urls": urls, "captions": captions}))
    return ": captions[{}]"


LAYOUTS = {"coco": coco, "karpathy": karpathy, "visual genome": visual_genome, "list": list_of_objects, "sbu": sbu}


@pytest.mark.parametrize("bad", BAD_CAPTIONS, ids=repr)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("position", [0, NUM_GOOD])
def test_a_bad_caption_first_or_last_is_skipped_by_its_place(
    layout: str, bad: object, position: int, tmp_path: Path
) -> None:
    captions: list[Any] = [f"caption {number}" for number in range(NUM_GOOD)]
    captions.insert(position, bad)
    path = tmp_path / "captions.json"
    place = LAYOUTS[layout](path, captions)
    found = records("pair", path)
    assert [record.text for record in found if not record.problem] == captions[:position] + captions[position + 1 :]
    problems = [record for record in found if record.problem != "image has no captions"]
    assert [record.place for record in problems if record.problem] == [f"{path}{place.format(position)}"]


@pytest.mark.parametrize("entry", [None, 5, "a", [], {}, {"id": None}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_entry_of_another_kind_is_skipped(layout: str, entry: object, tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    LAYOUTS[layout](path, [f"caption {number}" for number in range(NUM_GOOD)])
    content = json.loads(path.read_text())
    if layout == "sbu":
        content["image_urls"].append(entry)
        content["captions"].append("caption")
    else:
        lists = [content] if isinstance(content, list) else [value for value in content.values() if type(value) is list]
        for elements in lists:
            elements.insert(0, entry)
    path.write_text(json.dumps(content))
    found = records("pair", path)
    assert sum(not record.problem for record in found) == NUM_GOOD + (layout == "sbu" and entry == "a")
    assert any(record.problem for record in found) or entry == "a"


NESTED = "[" * 600 + "]" * 600
"""More than pickle follows, on the way to another process."""


@pytest.mark.parametrize(
    "content",
    [
        f'[{{"id": 1, "regions": [{{"phrase": "one", "x": {NESTED}, "y": 2}}]}}]',
        f'{{"images": [{{"filename": "1.jpg", "split": {NESTED}, "sentences": [{{"raw": "one"}}]}}]}}',
    ],
    ids=["Visual Genome", "Karpathy"],
)
def test_the_metadata_of_a_caption_is_plain(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    (record,) = read_records("pair", str(tmp_path / "a.json"), SourceOptions())
    assert record.text == "one" and pickle.loads(pickle.dumps(record)) == record


def test_a_file_whose_first_entries_are_all_bad_is_refused_without_reading_on(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    bad, good = '{"image": "a.jpg", "title": "one"}\n', '{"image": "a.jpg", "caption": "one"}\n'
    path.write_text(bad * (FIRST_ENTRIES - 1) + good)
    found = records("pair", path)
    assert len(found) == FIRST_ENTRIES and not found[-1].problem and found[0].place == f"{path}:1"
    path.write_text(bad * FIRST_ENTRIES + good)
    with pytest.raises(RefusedFileError, match=r"line 1: line has no text in field 'caption' \(it has: image, title\)"):
        records("pair", path)


TABLES: dict[str, Callable[[Path], object]] = {
    ".csv": lambda path: path.write_text("image,caption\na.jpg,one\nb.jpg\nc.jpg,three\n"),
    ".tsv": lambda path: path.write_text("image\tcaption\na.jpg\tone\nb.jpg\nc.jpg\tthree\n"),
    ".parquet": lambda path: pyarrow.parquet.write_table(
        pyarrow.table({"image": ["a.jpg", "b.jpg", "c.jpg"], "caption": [["one"], [None], ["three"]]}), path
    ),
}


@pytest.mark.parametrize("suffix", TABLES)
def test_a_bad_row_of_a_table_is_skipped_by_its_place(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs{suffix}"
    TABLES[suffix](path)
    one, bad, three = records("pair", path)
    assert (one.text, three.text) == ("one", "three") and bad.problem
    assert bad.place == (f"{path}: row 2" if suffix == ".parquet" else f"{path}:3")


def test_a_text_in_parquet_that_is_not_utf_8_is_one_bad_text(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    texts = pyarrow.array([b"one", b"caf\xe9", b"three"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    assert [record.text for record in records("text", path)] == ["one", "caf\udce9", "three"]


def test_a_damaged_row_group_costs_its_rows_and_each_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    texts = [f"text {number:04d} " * 20 for number in range(3000)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), path, row_group_size=1000, use_dictionary=False, compression="none"
    )
    content = bytearray(path.read_bytes())
    middle = content.index(b"text 1000 ")
    content[middle - 60 : middle] = b"\xff" * 60
    path.write_bytes(content)
    found = records("text", path)
    assert len(found) == 3000 and sum(not record.problem for record in found) == 2000
    assert {str(record.problem).partition(" (")[0] for record in found if record.problem} == {"row group is damaged"}


def test_a_refused_file_of_a_folder_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "0.jsonl").write_text('{"text": null}\n')
    (tmp_path / "1.jsonl").write_text('{"body": "one"}\n')
    found = records("text", tmp_path)
    assert [record.text for record in found if not record.problem] == ["one"]
    assert [record.place for record in found if record.problem] == [str(tmp_path / f"{n}.jsonl") for n in range(2)]
    (tmp_path / "2.jsonl").unlink()
    with pytest.raises(RefusedFileError, match=r"0.jsonl has no JSON with text in field 'text' \(line 1: "):
        records("text", tmp_path)
