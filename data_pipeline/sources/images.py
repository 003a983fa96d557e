"""Images without captions: folders, lists of files, and ImageNet-21K's tar of tars."""

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_pipeline.samples.records import Record, TarMember
from data_pipeline.samples.sample import IMAGE_EXTENSIONS
from data_pipeline.shards.tar_members import UNUSABLE, TarEntry, TarError, TarReader, open_tar
from data_pipeline.sources.captioned_objects import image_path_of, json_refusal
from data_pipeline.sources.entries import Entry, RefusedFileError, records_of_entries, records_of_files
from data_pipeline.sources.files import form, is_hidden, walk
from data_pipeline.sources.text_lines import LONG_LINE_PROBLEM, LongLine, json_lines, open_text

READ_EXTENSIONS = (*IMAGE_EXTENSIONS, "jfif", "jpe", "gif", "bmp", "tif", "tiff", "avif")
"""Extensions of files that write_shards stores or converts."""


def is_image_name(name: str) -> bool:
    return posixpath.splitext(name)[1].lower().lstrip(".") in READ_EXTENSIONS


def is_image_file(name: str) -> bool:
    """Return whether images_of_folder reads a file of this name."""
    return not is_hidden(name) and (is_image_name(name) or form(name) == ".tar")


def images_of_folder(folder: Path) -> Iterator[Record]:
    """Yield the image files at any depth, named by their relative paths (ImageNet-21K: n00004475/n00004475_6590.JPEG).

    Tars are read as well (ImageNet-21K: n00004475.tar). Other files become records with a problem.
    """
    return records_of_files(walk(folder, with_special=True), folder, lambda name: _images_in_folder(folder, name))


def _images_in_folder(folder: Path, name: str) -> Iterator[Record]:
    path = folder / name
    if is_hidden(name):
        yield Record(name, problem="file is hidden", place=str(path))
    elif is_image_name(name):
        yield Record(name, image=path, metadata=_class_of(name), place=str(path))
    elif form(name) == ".tar":
        yield from _images_of_tar_in_folder(path, name)
    else:
        yield Record(name, problem="file is not an image by its name", place=str(path))


def _images_of_tar_in_folder(path: Path, name: str) -> Iterator[Record]:
    if not path.is_file():
        raise RefusedFileError(path, "is not a regular file")
    try:
        for record in images_of_tar(path):
            metadata = record.metadata or _class_of(f"{PurePosixPath(name).stem}/{record.name}")
            yield replace(record, name=f"{name}/{record.name}", metadata=metadata, place=f"{path}: {record.name}")
    except ValueError as error:
        raise RefusedFileError(path, "is not a readable uncompressed tar", str(error)) from error


def images_of_list(path: Path, root: Path) -> Iterator[Record]:
    """Yield the images of a list with one path per line, relative to `root`."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            name, place = line.strip(), f"{path}:{number}"
            if isinstance(line, LongLine):
                yield Record(f"line {number}", problem=LONG_LINE_PROBLEM, place=place)
            elif name:
                yield Record(name, image=root / name, place=place)


def images_of_json_lines(path: Path, root: Path, column: str) -> Iterator[Record]:
    """Yield the images whose paths are in field `column`, each once: an image may have several captions."""
    seen: set[str] = set()

    def image(entry: Entry) -> list[Record]:
        name = image_path_of(entry.content, column)
        if name in seen:
            return []
        seen.add(name)
        return [Record(name, image=root / name, place=entry.place)]

    return records_of_entries(json_lines(path), image, json_refusal(path, f"with an image path in field {column!r}"))


def images_of_tar(path: Path) -> Iterator[Record]:
    """Yield the image files of a tar and of the tars inside it (ImageNet-21K: winter21_whole.tar holds n00004475.tar).

    Nothing is unpacked: records hold the location of the bytes. Other members become records with a problem. The rest
    of a damaged inner tar is lost, with one record for it. Raises ValueError if the outer tar is damaged or compressed.
    """
    try:
        with open_tar(path) as outer:
            for member in outer:
                is_tar = member.kind == "file" and member.name.endswith(".tar")
                if is_tar and not is_hidden(member.name):
                    yield from _images_of_inner_tar(path, outer, member)
                elif member.kind != "folder":
                    yield _record_of_member(path, member, member.name)
    except TarError as error:
        raise ValueError(f"{error}; unpack or download it again") from error


def _images_of_inner_tar(path: Path, outer: TarReader, member: TarEntry) -> Iterator[Record]:
    folder = PurePosixPath(member.name).stem
    try:
        for image in TarReader(outer.stream, f"{path}:{member.name}", member.offset, member.size):
            if image.kind != "folder":
                name = f"{folder}/{PurePosixPath(image.name).name}"
                yield replace(_record_of_member(path, image, name), metadata=_class_of(name))
    except TarError as error:
        yield Record(member.name, problem=f"inner tar is damaged ({error})")


def _record_of_member(path: Path, member: TarEntry, name: str) -> Record:
    if member.kind != "file":
        return Record(name, problem=UNUSABLE[member.kind])
    if is_hidden(member.name):
        return Record(name, problem="member is hidden")
    if not is_image_name(name):
        return Record(name, problem="member is not an image by its name")
    return Record(name, TarMember(path, member.offset, member.size))


def _class_of(name: str) -> dict[str, str]:
    """Return the folder of an image as its class, as in ImageNet."""
    folder = PurePosixPath(name).parent.name
    return {"class": folder} if folder else {}
