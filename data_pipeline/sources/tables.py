"""Rows of CSV, TSV and Parquet files, with columns named by options."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.samples import Kind
from data_pipeline.sources.files import form, open_text, require
from data_pipeline.sources.records import ImageLocation, ParquetCell, Record

TABLE_FORMS = (".csv", ".tsv", ".parquet")
ROWS_AT_ONCE = 256
LARGEST_ROW_GROUP_BYTES = 256_000_000
LONGEST_FIELD = 1 << 30
"""Characters of a CSV field: a caption that is too long is one sample to skip, not the end of the table."""


def records_of_table(kind: Kind, path: Path, root: Path, image_column: str, text_column: str) -> Iterator[Record]:
    """A record a row; for kind image, each path once. In TSV a quote is a character as any other.

    An image is a path relative to `root`, or, in Parquet, {"bytes", "path"} as Hugging Face embeds it, or bytes.
    Raises ValueError where the file is damaged, or a column is missing or holds something else.
    """
    needed = {"image": [image_column], "text": [text_column], "pair": [image_column, text_column]}[kind]
    seen: set[str] = set()
    for number, row in enumerate(_rows(path, needed)):
        name, image = f"{path.name}/{number:08d}", None
        if row is None:
            yield Record(name, problem="row has not as many cells as the header")
            continue
        if kind != "text":
            name, image = _image(row[image_column], name, root, path, number)
        if kind == "image" and isinstance(image, Path):
            if name in seen:
                continue
            seen.add(name)
        text = None if kind == "image" else row[text_column]
        if text is not None and not isinstance(text, str):
            raise ValueError(f"row {number + 1} of {path} has no text in column {text_column!r}")
        yield Record(name, image, text)


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any] | None]:
    """None: a row that has not as many cells as the header."""
    if form(path) == ".parquet":
        yield from _parquet_rows(path, columns)
        return
    cells = _tsv_cells(path) if form(path) == ".tsv" else _csv_cells(path)
    header = next(cells, [])
    _check_columns(path, columns, header)
    for row in cells:
        yield dict(zip(header, row, strict=True)) if len(row) == len(header) else None


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    parquet = require("pyarrow.parquet", f"to read {path}")
    try:
        table = parquet.ParquetFile(path)
        _check_columns(path, columns, table.schema_arrow.names)
        for group in range(table.num_row_groups):
            cells = {column: leaf for column in columns if (leaf := _embedded(table, group, column))}
            others = [column for column in columns if column not in cells]
            batches = table.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group], columns=others)
            for number, row in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches)):
                yield row | {column: ParquetCell(path, group, number, leaf) for column, leaf in cells.items()}
    except (require("pyarrow", "").ArrowException, UnicodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; Arrow's own have no number
            raise
        raise ValueError(f"{path} is no readable Parquet file ({error}); download it again") from error


def _embedded(table: Any, group: int, column: str) -> str | None:
    """Where a row group holds the bytes of images: the column, or its part. None where a row has none, or only a path.

    Images in a large row group are read here: each worker would read all of it for the few that it writes.
    """
    metadata = table.metadata.row_group(group)
    for number in range(metadata.num_columns):
        part = metadata.column(number)
        if part.path_in_schema in (column, f"{column}.bytes") and part.physical_type == "BYTE_ARRAY":
            is_binary = table.schema.column(number).logical_type.type == "NONE"
            has_all = part.statistics is not None and part.statistics.null_count == 0
            is_small = part.total_uncompressed_size <= LARGEST_ROW_GROUP_BYTES
            return part.path_in_schema if is_binary and has_all and is_small else None
    return None


def _csv_cells(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_FIELD)
    with open_text(path, newline="") as lines:
        reader, line = csv.reader(lines, strict=True), 0
        try:
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield cells
        except csv.Error as error:
            raise ValueError(f"the row that begins in line {line + 1} of {path} is no CSV ({error})") from error


def _tsv_cells(path: Path) -> Iterator[list[str]]:
    with open_text(path) as lines:
        for line in lines:
            if cells := line.rstrip("\r\n"):
                yield cells.split("\t")


def _check_columns(path: Path, needed: list[str], found: list[str]) -> None:
    missing = [column for column in needed if column not in found]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]!r} but {', '.join(found)}; name it by --image-column, "
            f"--caption-column or --text-column"
        )


def _image(value: Any, name: str, root: Path, path: Path, number: int) -> tuple[str, ImageLocation | None]:
    """Name and location of an image cell."""
    if isinstance(value, dict) and {"bytes", "path"} <= set(value):
        if value["bytes"] is None and value["path"] is not None:
            return value["path"], root / value["path"]
        return name, value["bytes"]
    if value is None or value == "":
        return name, None
    if isinstance(value, str):
        return value, root / value
    if isinstance(value, bytes | ParquetCell):
        return name, value
    raise ValueError(f"row {number + 1} of {path} has no image in its column but {type(value).__name__}")
