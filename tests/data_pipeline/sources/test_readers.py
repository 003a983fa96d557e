"""Every source in its original layout, in small. CPU, seconds."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from PIL import Image

from data_pipeline.samples.records import Record, TarMember, read_image
from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.sources.readers import SourceOptions, read_records


def picture(red: int, image_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (red, 0, 0)).save(buffer, image_format)
    return buffer.getvalue()


def records(kind: Kind, source: Path, **options: object) -> list[Record]:
    return list(read_records(kind, str(source), SourceOptions(**options)))  # type: ignore[arg-type]


def contents(found: list[Record]) -> list[tuple[str, bytes | None, str | None]]:
    return [(r.key, None if r.image is None else read_image(r.image), r.text) for r in found]


def test_imagenet_class_folders(tmp_path: Path) -> None:
    for number, wnid in enumerate(["n00004475", "n00005787"]):
        (tmp_path / wnid).mkdir()
        (tmp_path / wnid / f"{wnid}_{number}.JPEG").write_bytes(picture(number))
    (tmp_path / "readme.md").write_text("no image")
    *found, readme = records("image", tmp_path)
    assert contents(found) == [
        ("n00004475_n00004475_0", picture(0), None),
        ("n00005787_n00005787_1", picture(1), None),
    ]
    assert (readme.name, readme.problem) == ("readme.md", "file is not an image by its name")
    assert [r.metadata for r in found] == [{"class": "n00004475"}, {"class": "n00005787"}]


def test_imagenet_21k_tar_of_tars(tmp_path: Path) -> None:
    path = tmp_path / "winter21_whole.tar"
    with tarfile.open(path, "w") as outer:
        for number, wnid in enumerate(["n00004475", "n00005787"]):
            inner_bytes = io.BytesIO()
            with tarfile.open(fileobj=inner_bytes, mode="w") as inner:
                add(inner, f"{wnid}_{number}.JPEG", picture(number))
            add(outer, f"winter21_whole/{wnid}.tar", inner_bytes.getvalue())
    found = records("image", path)
    assert [(r.key, r.metadata["class"]) for r in found] == [
        ("n00004475_n00004475_0", "n00004475"),
        ("n00005787_n00005787_1", "n00005787"),
    ]
    assert all(isinstance(r.image, TarMember) for r in found)
    assert [read_image(r.image) for r in found if r.image is not None] == [picture(0), picture(1)]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_a_list_of_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(1, "PNG"))
    (tmp_path / "list.txt").write_text("a.png\nmissing.png\n\n")
    found = records("image", tmp_path / "list.txt", image_root=tmp_path / "images")
    assert contents(found[:1]) == [("a", picture(1, "PNG"), None)]
    with pytest.raises(BadSampleError, match="does not exist"):
        contents(found[1:])


def test_coco_captions(tmp_path: Path) -> None:
    (tmp_path / "train2017").mkdir()
    for number in (9, 25):
        (tmp_path / "train2017" / f"{number:012d}.jpg").write_bytes(picture(number))
    annotations = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "width": 32, "height": 24, "license": 1} for n in (25, 9)],
        "annotations": [
            {"id": 3, "image_id": 9, "caption": "A second caption."},
            {"id": 1, "image_id": 25, "caption": "A giraffe."},
            {"id": 2, "image_id": 9, "caption": "A first caption."},
        ],
    }
    (tmp_path / "captions_train2017.json").write_text(json.dumps(annotations))
    found = records("pair", tmp_path / "captions_train2017.json", image_root=tmp_path / "train2017")
    assert contents(found) == [
        ("000000000025_0", picture(25), "A giraffe."),
        ("000000000009_0", picture(9), "A first caption."),
        ("000000000009_1", picture(9), "A second caption."),
    ]


def test_visual_genome_regions(tmp_path: Path) -> None:
    for folder, number in (("VG_100K", 1), ("VG_100K_2", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{number}.jpg").write_bytes(picture(number))
    regions = [
        {
            "id": number,
            "regions": [
                {"region_id": 10 * number + n, "image_id": number, "phrase": f"phrase {n}",
                 "x": n, "y": 2, "width": 5, "height": 6}
                for n in range(2)
            ],
        }
        for number in (1, 2)
    ]  # fmt: skip
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    found = records("pair", tmp_path / "region_descriptions.json")
    assert contents(found) == [(f"{number}_{n}", picture(number), f"phrase {n}") for number in (1, 2) for n in range(2)]
    assert found[1].metadata == {"image_id": 1, "region": {"x": 1, "y": 2, "width": 5, "height": 6}}


def test_sbu(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "4385058960_b0f291553e.jpg").write_bytes(picture(4))
    (tmp_path / "SBU_captioned_photo_dataset_urls.txt").write_text(
        "http://static.flickr.com/2723/4385058960_b0f291553e.jpg\n"
    )
    captions = tmp_path / "SBU_captioned_photo_dataset_captions.txt"
    captions.write_text("A wooden chair in the living room\n")
    found = records("pair", captions, image_root=tmp_path / "images")
    assert contents(found) == [("4385058960_b0f291553e", picture(4), "A wooden chair in the living room")]
    urls = ["http://static.flickr.com/2723/4385058960_b0f291553e.jpg"]
    together = tmp_path / "sbu-captions-all.json"
    together.write_text(json.dumps({"image_urls": urls, "captions": ["A wooden chair in the living room"]}))
    assert contents(records("pair", together, image_root=tmp_path / "images")) == contents(found)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_of_paths(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    with (tmp_path / f"pairs{suffix}").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
        writer.writerows([["title", "filepath"], ["one, with a comma", "a.jpg"], ["two", "a.jpg"]])
    options = {"image_column": "filepath", "caption_column": "title"}
    assert contents(records("pair", tmp_path / f"pairs{suffix}", **options)) == [
        ("a", picture(1), "one, with a comma"),
        ("a", picture(1), "two"),
    ]
    with pytest.raises(ValueError, match="has no column 'image' but title, filepath"):
        records("pair", tmp_path / f"pairs{suffix}")


def test_parquet_with_embedded_images_as_hugging_face_datasets_store_it(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": picture(n), "path": f"{n}.jpg"}, "caption": f"caption {n}", "text": f"text {n}"}
        for n in range(3)
    ]
    path = tmp_path / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = contents(records("pair", path))
    assert [(image, text) for _, image, text in found] == [(picture(n), f"caption {n}") for n in range(3)]
    assert len({key for key, _, _ in found}) == 3
    assert [text for _, _, text in contents(records("text", path))] == ["text 0", "text 1", "text 2"]
    assert [image for _, image, _ in contents(records("image", path))] == [picture(n) for n in range(3)]
    (tmp_path / "more").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "more" / path.name)
    for kind in ("image", "pair", "text"):
        several = records(kind, tmp_path)  # type: ignore[arg-type]
        assert len(several) == len({record.key for record in several}) == 6


def test_a_table_with_a_caption_of_a_million_characters_and_quotes_inside(tmp_path: Path) -> None:
    long, quoted = "x" * 1_000_000, 'a "quoted word and no end'
    (tmp_path / "pairs.tsv").write_text(f"image\tcaption\na.jpg\t{long}\nb.jpg\t{quoted}\nc.jpg\tthree\n")
    assert [record.text for record in records("pair", tmp_path / "pairs.tsv")] == [long, quoted, "three"]


def test_karpathys_json_with_its_splits(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(picture(42))
    sentence = {"tokens": ["a", "shoe"], "raw": "A shoe.", "imgid": 0, "sentid": 1}
    image = {"filepath": "val2014", "sentids": [1, 2], "filename": "COCO_val2014_000000000042.jpg", "imgid": 0}
    images = [
        {**image, "split": split, "sentences": [sentence, {**sentence, "raw": "Two shoes."}], "cocoid": 42}
        for split in ("restval", "test", "train", "val")
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    key = "val2014_COCO_val2014_000000000042"
    expected = [(f"{key}_0", picture(42), "A shoe."), (f"{key}_1", picture(42), "Two shoes.")]
    found = records("pair", path)
    assert contents([record for record in found if not record.problem]) == expected * 2
    assert [record.problem for record in found if record.problem] == [
        f"image of another split than --image-splits (the first is of '{split}')" for split in ("test", "val")
    ]
    assert contents([r for r in records("pair", path, image_splits=("test",)) if not r.problem]) == expected
    assert contents(records("pair", path, image_splits=())) == expected * 4
    del images[0]["filepath"], images[0]["split"]  # as in dataset_flickr30k.json
    path.write_text(json.dumps({"images": images[:1], "dataset": "flickr30k"}))
    assert [record.key for record in records("pair", path)] == [f"COCO_val2014_000000000042_{n}" for n in range(2)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Train_GCC-training.tsv", "a very typical bus station\thttp://lh6.ggpht.com/a\nsierra\thttp://a/b.jpg\n"),
        ("cc12m.tsv", "https://lh6.ggpht.com/a.jpg\ta very typical bus station\n"),
        ("laion.csv", "URL,TEXT\nhttp://a/b.jpg,a bus\n"),
        ("pairs.csv", "image,caption\nhttp://a/b.jpg,a bus\nHTTPS://a/c.jpg,two\n"),
        ("pairs.jsonl", '{"image": "http://a/b.jpg", "caption": "a bus"}\n'),
        ("pairs.json", '[{"image": "http://a/b.jpg", "caption": "a bus"}]'),
    ],
)
def test_a_list_of_urls_is_refused_with_the_tool_that_downloads_it(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} .*img2dataset"):
        records("pair", tmp_path / name)


@pytest.mark.parametrize("name", ["pairs.jsonl", "texts.jsonl", "wiki_00", "a.txt"])
def test_html_entities_are_unescaped_if_that_is_asked_for(name: str, tmp_path: Path) -> None:
    line = {"image": "a.jpg", "caption": "R&amp;D &#39;24", "text": "R&amp;D &#39;24"}
    (tmp_path / name).write_text(line["text"] if name == "a.txt" else json.dumps(line))
    kind: Kind = "pair" if name == "pairs.jsonl" else "text"
    for unescape_html, text in ((False, "R&amp;D &#39;24"), (True, "R&D '24")):
        (record,) = records(kind, tmp_path / name, unescape_html=unescape_html)
        assert record.text == text


WIKI = """<doc id="12" url="https://en.wikipedia.org/wiki?curid=12" title="Anarchism">
Anarchism

Anarchism is a philosophy.
It has a history.

</doc>
<doc id="25" url="https://en.wikipedia.org/wiki?curid=25" title="Autism">
Autism

Autism is a condition.

</doc>
"""


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_wiki_extractors_folders(compression: str, tmp_path: Path) -> None:
    (tmp_path / "AA").mkdir()
    content = WIKI.encode()
    compressed = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}[compression]
    (tmp_path / "AA" / f"wiki_00{compression}").write_bytes(compressed)
    found = records("text", tmp_path)
    assert [(r.text, r.metadata["title"]) for r in found] == [
        ("Anarchism is a philosophy.\nIt has a history.", "Anarchism"),
        ("Autism is a condition.", "Autism"),
    ]
    assert len({r.key for r in found}) == 2


def test_plain_text_with_a_document_a_line_or_a_paragraph(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("first document\nsecond document\n")
    assert [r.text for r in records("text", tmp_path / "lines.txt")] == ["first document", "second document"]
    (tmp_path / "paragraphs.txt").write_text("first\nstill first\n\n\nsecond\n")
    assert [r.text for r in records("text", tmp_path / "paragraphs.txt")] == ["first\nstill first", "second"]


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("pair", "a.json", "{", "is not valid JSON"),
        ("pair", "a.json", '{"images": []}', "neither COCO captions"),
        ("pair", "a.jsonl", "[1]", r"a.jsonl has no JSON lines with .*\(line 1: line is not a JSON object\)"),
        ("text", "a.jsonl", '{"text": 5}', r"a.jsonl has no JSON with text in field 'text' \(line 1: .* \(5\)\); name"),
        ("image", "a.tar", "no tar", "is not a readable tar"),
        ("image", "a.xyz", "", "gives no samples of kind 'image'"),
        ("pair", "captions.txt", "a", "has no list of URLs beside it"),
    ],
)
def test_files_of_another_layout_are_refused(kind: Kind, name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        records(kind, tmp_path / name)


@pytest.mark.parametrize("source", ["scenes:", "scenes:\u00b2", "scenes:3:-1", "scenes:" + "9" * 5000, "scenes:1:2:3"])
def test_scenes_are_asked_for_by_numbers(source: str) -> None:
    with pytest.raises(ValueError, match="must read scenes:COUNT or scenes:COUNT:SEED"):
        next(read_records("image", source, SourceOptions()))
