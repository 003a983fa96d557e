"""Images alone: folders, lists of files, and ImageNet-21K's tar of tars."""

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_pipeline.samples import IMAGE_EXTENSIONS
from data_pipeline.sources.files import json_lines, line_without_text, open_text, walk
from data_pipeline.sources.records import Record, TarMember
from data_pipeline.tar_members import UNUSABLE, TarEntry, TarError, TarReader, open_tar


def is_image_name(name: str) -> bool:
    return posixpath.splitext(name)[1].lower().lstrip(".") in IMAGE_EXTENSIONS


def images_of_folder(folder: Path) -> Iterator[Record]:
    """Image files at any depth, by their paths in the folder (ImageNet-21K: n00004475/n00004475_6590.JPEG)."""
    for name in walk(folder):
        if is_image_name(name):
            yield Record(name, image=folder / name, metadata=_class_of(name))


def images_of_list(path: Path, root: Path) -> Iterator[Record]:
    """A path a line, relative to `root`."""
    with open_text(path) as lines:
        for line in lines:
            name = line.strip()
            if name:
                yield Record(name, image=root / name)


def images_of_json_lines(path: Path, root: Path, column: str) -> Iterator[Record]:
    """The paths in field `column`, each once: an image may have several captions."""
    seen: set[str] = set()
    for number, line in json_lines(path):
        name = line.get(column)
        if not isinstance(name, str):
            yield line_without_text(path, number, line, column)
        elif name not in seen:
            seen.add(name)
            yield Record(name, image=root / name)


def images_of_tar(path: Path) -> Iterator[Record]:
    """Image files of a tar, and of the tars inside it (ImageNet-21K: winter21_whole.tar holds n00004475.tar).

    Nothing is unpacked: records say where the bytes lie. What is no image becomes a record with a problem. What a
    damaged inner tar holds after the damage is lost, and one record says so. Raises ValueError if the tar itself is
    damaged or compressed.
    """
    try:
        with open_tar(path) as outer:
            for member in outer:
                if member.kind == "file" and member.name.endswith(".tar"):
                    yield from _images_of_inner_tar(path, outer, member)
                elif member.kind != "folder":
                    yield _record_of_member(path, member, member.name)
    except TarError as error:
        raise ValueError(f"{error}; unpack or download it again") from error


def _images_of_inner_tar(path: Path, outer: TarReader, member: TarEntry) -> Iterator[Record]:
    folder = PurePosixPath(member.name).stem
    try:
        for image in TarReader(outer.stream, member.name, member.offset, member.size):
            if image.kind != "folder":
                name = f"{folder}/{PurePosixPath(image.name).name}"
                yield replace(_record_of_member(path, image, name), metadata=_class_of(name))
    except TarError as error:
        yield Record(member.name, problem=f"inner tar is damaged ({error})")


def _record_of_member(path: Path, member: TarEntry, name: str) -> Record:
    if member.kind != "file":
        return Record(name, problem=UNUSABLE[member.kind])
    if not is_image_name(name):
        return Record(name, problem="member is no image by its name")
    return Record(name, TarMember(path, member.offset, member.size))


def _class_of(name: str) -> dict[str, str]:
    """The folder that an image lies in is its class, as in ImageNet."""
    folder = PurePosixPath(name).parent.name
    return {"class": folder} if folder else {}
