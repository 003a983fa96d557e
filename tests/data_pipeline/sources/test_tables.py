"""Tables with odd rows, cells and columns, and damaged tables. CPU, seconds."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.samples.records import ParquetCell, Record, read_image
from data_pipeline.samples.sample import BadSampleError, Kind
from data_pipeline.sources import tables
from data_pipeline.sources.readers import SourceOptions, read_records


def records(kind: Kind, source: Path, **options: object) -> list[Record]:
    return list(read_records(kind, str(source), SourceOptions(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_a_row_with_more_or_fewer_cells_than_the_header_is_skipped_with_a_reason(
    suffix: str, mark: str, tmp_path: Path
) -> None:
    path = tmp_path / f"pairs{suffix}"
    rows = [["image", "caption"], ["a.jpg", "one"], ["b.jpg", "two", " not quoted"], [], ["c.jpg"], ["d.jpg", "four"]]
    path.write_text("\n".join(mark.join(row) for row in rows))
    cut = "row and header differ in their number of cells"
    assert [(record.key, record.text, record.problem) for record in records("pair", path)] == [
        ("a", "one", None),
        (f"pairs_{suffix[1:]}_00000001", None, cut),
        (f"pairs_{suffix[1:]}_00000002", None, cut),
        ("d", "four", None),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_images_of_a_table_are_read_once_whatever_the_number_of_captions(suffix: str, tmp_path: Path) -> None:
    path, names = tmp_path / f"pairs{suffix}", ["a.jpg", "a.jpg", "b.jpg", "a.jpg"]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"image": names, "caption": names}), path)
    else:
        path.write_text("\n".join(f"{name}{',' if suffix == '.csv' else chr(9)}{name}" for name in ["image", *names]))
        path.write_text(path.read_text().replace("image", "caption", 2).replace("caption", "image", 1))
    assert [record.key for record in records("image", path)] == ["a", "b"]
    assert [record.key for record in records("pair", path)] == ["a", "a", "b", "a"]


def test_a_name_of_a_parquet_column_that_is_not_utf_8_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"text", b"te\xfft"))
    with pytest.raises(ValueError, match=r"a.parquet (is not a readable Parquet file|has no column)"):
        records("text", path)


@pytest.mark.parametrize("content", ["", "\n\n", '"image,caption\na.jpg,text\n'])
def test_a_table_without_a_header_is_refused_in_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match="a.csv has no header with column names"):
        list(read_records("pair", str(tmp_path / "a.csv"), SourceOptions()))


@pytest.mark.parametrize("type_of_day", [pyarrow.date32(), pyarrow.timestamp("ns"), pyarrow.duration("s")])
def test_dates_beyond_pythons_are_not_captions(type_of_day: pyarrow.DataType, tmp_path: Path) -> None:
    largest = pyarrow.array([2**31 - 1], pyarrow.int32())
    days = largest.cast(type_of_day) if type_of_day == pyarrow.date32() else pyarrow.array([2**60 + 1], type_of_day)
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a.jpg"], "caption": days}), path)
    with pytest.raises(
        ValueError, match="a.parquet has no usable rows in columns 'image' and 'caption'.*row has no text"
    ):
        list(read_records("pair", str(path), SourceOptions()))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_two_columns_of_the_same_name_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        path.write_text("image,caption,caption\na.jpg,one,two\n")
    else:
        columns = [pyarrow.array([cell]) for cell in ("a.jpg", "one", "two")]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["image", "caption", "caption"]), path)
    with pytest.raises(ValueError, match=f"a{suffix} has 2 columns 'caption'; rename all but one"):
        list(read_records("pair", str(path), SourceOptions()))


def test_bytes_are_not_captions_and_no_class_of_ours_is_shown(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a.jpg"], "caption": [b"one"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"row has no text in column 'caption' \(bytes\)"):
        list(read_records("pair", str(tmp_path / "a.parquet"), SourceOptions()))


def test_an_empty_image_cell_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image,caption\n,one\n")
    (record,) = records("pair", tmp_path / "pairs.csv")
    assert record.image is None and record.text == "one"


def test_a_null_text_is_a_record_without_text(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", None, "three"]}), path)
    assert [record.text for record in records("text", path)] == ["one", None, "three"]


def rows_with_images(path: Path) -> None:
    """Ten rows of about 1 kB in row groups of four, as Hugging Face writes images."""
    rows = [
        {"image": {"bytes": bytes([n]) * 1000, "path": f"{n}.jpg"}, "caption": f"caption {n}", "plain": bytes([n])}
        for n in range(10)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4, compression="none")


@pytest.mark.parametrize("column", ["image", "plain"])
def test_embedded_images_are_read_when_needed_and_not_when_listed(column: str, tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    rows_with_images(path)
    found = list(read_records("pair", str(path), SourceOptions(image_column=column)))
    assert all(isinstance(record.image, ParquetCell) for record in found)
    contents = [read_image(record.image) for record in found if record.image is not None]
    assert contents == [bytes([n]) * (1000 if column == "image" else 1) for n in range(10)]
    assert [record.text for record in found] == [f"caption {n}" for n in range(10)]
    assert [record.image for record in read_records("image", str(path), SourceOptions(image_column=column))] == [
        record.image for record in found
    ]


def test_embedded_images_of_large_row_groups_and_beside_paths_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    rows_with_images(path)
    monkeypatch.setattr(tables, "LARGEST_ROW_GROUP_BYTES", 1000)
    assert [record.image for record in records("image", path)] == [bytes([n]) * 1000 for n in range(10)]
    mixed = [{"image": {"bytes": b"0", "path": None}}, {"image": {"bytes": None, "path": "1.jpg"}}, {"image": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(mixed), path)
    assert [record.image for record in records("image", path)] == [b"0", tmp_path / "1.jpg", None]


def test_an_image_in_a_damaged_row_group_is_a_bad_sample(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    rows_with_images(path)
    content = path.read_bytes()
    second = content.index(bytes([4]) * 1000)
    path.write_bytes(content[: second - 200] + b"\xff" * 200 + content[second:])
    found = [record.image for record in records("image", path) if record.image is not None]
    assert read_image(found[0]) == bytes(1000) and read_image(found[9]) == bytes([9]) * 1000
    with pytest.raises(BadSampleError, match="row group of a Parquet file is damaged"):
        read_image(found[4])


def test_a_damaged_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {number}" for number in range(20_000)]}), path)
    content = path.read_bytes()
    for broken in (b"", b"<html>404</html>", content[:-20], content[:100] + bytes(2000) + content[2100:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"00001.parquet (is not a readable Parquet file|.*row group is damaged)"):
            records("text", path)
