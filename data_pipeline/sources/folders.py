"""Folders as sources: their tables, or else their images, image files beside captions, or text files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import Kind
from data_pipeline.sources.entries import RefusedFileError, records_of_files
from data_pipeline.sources.files import form, is_hidden, walk
from data_pipeline.sources.images import images_of_folder, is_image_file
from data_pipeline.sources.pair_files import has_caption_files, pairs_of_folder
from data_pipeline.sources.tables import TABLE_FORMS, Columns, MissingColumnError, check_columns, records_of_table
from data_pipeline.sources.texts import texts_of_folder


def records_of_folder(kind: Kind, folder: Path, columns: Columns) -> Iterator[Record] | None:
    """Return the rows of the tables with these columns, or else the images, pairs of files, or documents.

    None if the folder holds nothing of the kind. Raises ValueError for shards, and for tables with other columns if
    there is nothing else.
    """
    if kind == "pair" and any(name.endswith(".tar") and not is_hidden(name) for name in walk(folder)):
        raise ValueError(f"{folder} holds .tar shards: index them in place with data_pipeline.index_shards")
    forms = TABLE_FORMS if kind == "pair" else (".parquet",)  # a .csv beside images or documents is a list of them
    tables = [name for name in walk(folder) if form(name) in forms and not is_hidden(name)]
    problem = _problem_of_tables(folder, tables, columns)
    if tables and problem is None:
        return _records_of_tables(folder, forms, columns)
    if kind == "image" and (problem is None or any(is_image_file(name) for name in walk(folder))):
        return images_of_folder(folder)
    if kind == "text" and problem is None:
        return texts_of_folder(folder, columns.names()[0])
    if kind == "pair" and has_caption_files(folder):
        return pairs_of_folder(folder)
    if problem is not None:
        raise problem
    return None


def _problem_of_tables(folder: Path, tables: list[str], columns: Columns) -> ValueError | None:
    """Return the problem of the first table if none can be read, else None."""
    first: ValueError | None = None
    for name in tables:
        try:
            check_columns(folder / name, columns)
        except (MissingColumnError, RefusedFileError) as error:
            first = first or error
        else:
            return None
    return first


def _records_of_tables(folder: Path, forms: tuple[str, ...], columns: Columns) -> Iterator[Record]:
    """Yield the rows of all tables (Hugging Face: train-00000-of-00080.parquet, ...) and a problem per other file."""

    def read(name: str) -> Iterator[Record]:
        path, parent = folder / name, PurePosixPath(name).parent
        if is_hidden(name) or form(name) not in forms:
            problem = "file is hidden" if is_hidden(name) else "file is not a table by its name"
            yield Record(name, problem=problem, place=str(path))
            return
        if not path.is_file():
            raise RefusedFileError(path, "is not a regular file")
        try:
            for record in records_of_table(path, path.parent, columns):
                yield replace(record, name=(parent / record.name).as_posix())
        except MissingColumnError as error:
            raise RefusedFileError(path, "lacks a column", str(error)) from error

    return records_of_files(walk(folder, with_special=True), folder, read)
