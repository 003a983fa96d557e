"""Rows of CSV, TSV and Parquet files, with columns named by options."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.samples.records import ImageLocation, ParquetCell, Record, cannot_be_read
from data_pipeline.samples.sample import IMAGE_EXTENSIONS, Kind
from data_pipeline.sources.captioned_objects import URL_PROBLEM, is_url
from data_pipeline.sources.delimited import rows_of
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, records_of_entries
from data_pipeline.sources.files import form, require

TABLE_FORMS = (".csv", ".tsv", ".parquet")
ROWS_AT_ONCE = 256
LARGEST_ROW_GROUP_BYTES = 256_000_000


class MissingColumnError(ValueError):
    """Raised for a table without the columns that were asked for."""


class Columns(NamedTuple):
    """Names of the columns that are read."""

    image: str | None
    text: str | None

    @classmethod
    def of_kind(cls, kind: Kind, image_column: str, text_column: str) -> "Columns":
        return cls(image_column if kind != "text" else None, text_column if kind != "image" else None)

    def names(self) -> list[str]:
        return [name for name in self if name is not None]

    def among(self, found: list[str]) -> "Columns":
        """Return the columns with img2dataset's names (jpg, txt) if the table is its Parquet file and lacks ours."""
        if not {"key", "status"} <= set(found):
            return self
        image = self.image if self.image in found else next((e for e in IMAGE_EXTENSIONS if e in found), self.image)
        text = self.text if self.text in found or "txt" not in found else "txt"
        return Columns(self.image and image, self.text and text)


def records_of_table(path: Path, root: Path, columns: Columns) -> Iterator[Record]:
    """Yield a record per row and caption, or without captions each image path once.

    An image is a path relative to `root`, or in Parquet bytes, or {"bytes", "path"} as embedded by Hugging Face.
    Raises MissingColumnError, and RefusedFileError if the file is damaged or no row is usable.
    """
    columns, rows = _opened(path, columns)
    seen: set[str] | None = set() if columns.text is None else None
    parse = partial(_records_of_row, columns=columns, root=root, seen=seen)
    return records_of_entries(rows, parse, lambda first: _refusal(path, columns, first))


def check_columns(path: Path, columns: Columns) -> None:
    """Raise MissingColumnError if a column is missing, and RefusedFileError if the file cannot be read."""
    _opened(path, columns)


def _refusal(path: Path, columns: Columns, first: str) -> Exception:
    names = " and ".join(repr(name) for name in columns.names())
    return RefusedFileError(path, f"has no usable rows in columns {names}", first)


def _opened(path: Path, columns: Columns) -> tuple[Columns, Iterator[Entry]]:
    """Return the columns by their names in the file, and its rows."""
    if form(path) == ".parquet":
        return _opened_parquet(path, columns)
    rows = rows_of(path, columns.names())
    header = next(rows, None)
    if header is None or header.problem:
        raise RefusedFileError(path, "has no header with column names", header.problem if header else "")
    names = header.cells
    columns = columns.among(names)
    _check_names(path, columns, names)
    entries = (
        Entry(
            f"{path.name}/{number:08d}",
            f"{path}:{row.line}",
            dict(zip(names, row.cells, strict=False)),
            row.problem or ("" if len(row.cells) == len(names) else "row and header differ in their number of cells"),
        )
        for number, row in enumerate(rows)
    )
    return columns, entries


def _check_names(path: Path, columns: Columns, found: list[str]) -> None:
    for name in columns.names():
        if found.count(name) > 1:
            raise RefusedFileError(path, f"has {found.count(name)} columns {name!r}", remedy="rename all but one")
    missing = [column for column in columns.names() if column not in found]
    if not missing:
        return
    download = "as CC3M and CC12M are published, download them with img2dataset, whose shards index_shards reads"
    if columns.image is not None and any(map(is_url, found)):
        raise MissingColumnError(f"{path} holds URLs and captions but no images: {download}")
    hint = f"; if it holds URLs alone, {download}" if columns.image and "url" in map(str.lower, found) else ""
    raise MissingColumnError(
        f"{path} has no column {missing[0]!r} but {', '.join(found):.500}; name it with --image-column, "
        f"--caption-column or --text-column{hint}"
    )


def _records_of_row(entry: Entry, columns: Columns, root: Path, seen: set[str] | None) -> Iterator[Record]:
    """Yield the records of a row. seen: the image paths so far, if the table has no captions; else None."""
    row, place = entry.content, entry.place
    name, image = entry.name, None
    if columns.image is not None:
        name, image = _image(row[columns.image], name, root)
    if seen is not None:
        if not isinstance(image, Path) or name not in seen:
            seen.add(name)
            yield Record(name, image, place=place)
        return
    assert columns.text is not None
    text = row[columns.text]
    if isinstance(text, str):
        yield Record(name, image, text, place=place)
    elif text is None or text == []:
        yield Record(name, image, place=place)
    elif isinstance(text, list):
        for number, caption in enumerate(text):
            if isinstance(caption, str):
                yield Record(name, image, caption, number, place=place)
            else:
                problem = f"row has no text in column {columns.text!r} (element {number} of its list)"
                yield Record(entry.name, problem=problem, place=place)
    else:
        found = "bytes" if isinstance(text, bytes | ParquetCell) else f"{text!s:.60}"
        raise EntryError(f"row has no text in column {columns.text!r} ({found})")


def _opened_parquet(path: Path, columns: Columns) -> tuple[Columns, Iterator[Entry]]:
    parquet = require("pyarrow.parquet", f"to read {path}")
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
    except _arrow_errors() as error:
        _raise_if_of_disk(path, error)
        raise RefusedFileError(path, "is not a readable Parquet file", str(error), "download it again") from error
    columns = columns.among(names)
    _check_names(path, columns, names)
    return columns, _parquet_rows(path, table, columns.names())


def _parquet_rows(path: Path, table: Any, columns: list[str]) -> Iterator[Entry]:
    """Yield every row; the lost rows of a damaged row group have a problem."""
    first = 0
    for group in range(table.num_row_groups):
        number, num_rows = 0, table.metadata.row_group(group).num_rows
        problem = "row is missing in its row group"
        try:
            for number, row in enumerate(_rows_of_group(path, table, group, columns), 1):
                yield _parquet_entry(path, first + number - 1, row)
        except _arrow_errors() as error:
            _raise_if_of_disk(path, error)
            problem = f"row group is damaged ({error})"
        for missing in range(number, num_rows):
            yield _parquet_entry(path, first + missing, None, problem)
        first += num_rows


def _parquet_entry(path: Path, number: int, row: Any, problem: str = "") -> Entry:
    return Entry(f"{path.name}/{number:08d}", f"{path}: row {number + 1}", row, problem)


def _rows_of_group(path: Path, table: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    cells = {column: leaf for column in columns if (leaf := _embedded(table, group, column))}
    others = [column for column in columns if column not in cells]
    number = 0
    for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group], columns=others):
        for row in _as_rows(batch):
            yield row | {column: ParquetCell(path, group, number, leaf) for column, leaf in cells.items()}
            number += 1


def _as_rows(batch: Any) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError):  # invalid UTF-8, or a date beyond Python's range
        names = batch.schema.names
        rows = [{name: _value(batch[name][number]) for name in names} for number in range(batch.num_rows)]
    return rows


def _value(scalar: Any) -> Any:
    """Return a value: invalid UTF-8 becomes lone surrogates, as in text files, and a value beyond Python its type."""
    try:
        return scalar.as_py()
    except UnicodeError:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        return None
    except (ValueError, OverflowError):
        return scalar.type


def _arrow_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that Arrow raises for damaged files; UnicodeError for a damaged schema."""
    return (require("pyarrow", "to read Parquet files").ArrowException, UnicodeError, OSError)


def _raise_if_of_disk(path: Path, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno is not None:  # Arrow's own errors have no errno
        raise cannot_be_read(path, error) from error


def _embedded(table: Any, group: int, column: str) -> str | None:
    """Return the leaf column with the images' bytes in a row group; None if a row has no bytes, or only a path.

    None also for a large row group, whose images are read here: each worker would read all of it for the few it writes.
    """
    for number in range(table.metadata.num_columns):
        leaf = table.schema.column(number)
        if leaf.path in (column, f"{column}.bytes") and leaf.physical_type == "BYTE_ARRAY":
            if leaf.logical_type.type != "NONE":
                return None
            if _is_damaged(table, group, column):
                return leaf.path  # each of its images is a bad sample of its own
            part = table.metadata.row_group(group).column(number)
            has_all = part.statistics is not None and part.statistics.null_count == 0
            is_small = part.total_uncompressed_size <= LARGEST_ROW_GROUP_BYTES
            return leaf.path if has_all and is_small else None
    return None


def _is_damaged(table: Any, group: int, column: str) -> bool:
    """Return whether the first row cannot be read. Arrow raises here; reading the metadata of such a column aborts."""
    try:
        next(table.iter_batches(batch_size=1, row_groups=[group], columns=[column]), None)
    except _arrow_errors():
        return True
    return False


def _image(value: Any, name: str, root: Path) -> tuple[str, ImageLocation | None]:
    """Return name and location of an image cell. name: of its row."""
    if isinstance(value, dict) and {"bytes", "path"} <= set(value):
        if value["bytes"] is not None or value["path"] is None:
            return name, value["bytes"]
        value = value["path"]
    if value is None or value == "":
        return name, None
    if isinstance(value, str):
        if is_url(value):
            raise EntryError(URL_PROBLEM.format(value))
        return value, root / value
    if isinstance(value, bytes | ParquetCell):
        return name, value
    raise EntryError(f"row has no image in its column ({type(value).__name__})")
