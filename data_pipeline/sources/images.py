"""Images alone: folders, lists of files, and ImageNet-21K's tar of tars."""

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_pipeline.samples import IMAGE_EXTENSIONS
from data_pipeline.sources.files import json_lines, line_without_text, open_text, walk
from data_pipeline.sources.records import Record, TarMember


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

    Nothing is unpacked: records say where the bytes lie. What a damaged inner tar holds after the damage is lost, and
    one record says so. Raises ValueError where the tar itself is damaged or no uncompressed tar.
    """
    try:
        with tarfile.open(path, mode="r:") as outer:
            for member in _files_of(outer):
                if member.name.endswith(".tar"):
                    yield from _images_of_inner_tar(path, outer, member)
                elif is_image_name(member.name):
                    yield Record(member.name, TarMember(path, member.offset_data, member.size))
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no readable uncompressed tar ({error})") from error


def _images_of_inner_tar(path: Path, outer: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[Record]:
    folder = PurePosixPath(member.name).stem
    try:
        with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
            for image in _files_of(inner):
                if is_image_name(image.name):
                    name = f"{folder}/{PurePosixPath(image.name).name}"
                    location = TarMember(path, member.offset_data + image.offset_data, image.size)
                    yield Record(name, location, metadata=_class_of(name))
    except tarfile.TarError as error:
        yield Record(member.name, problem=f"inner tar is damaged ({error})")


def _files_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Raises tarfile.ReadError, naming the byte, where a tar breaks off or is corrupt."""
    try:
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all: 6 GB for 14 million images
            if member.isfile():
                yield member
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no header and no end of the archive")  # tarfile takes a bad header for the end
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise tarfile.ReadError(f"it breaks off or is corrupt at byte {tar.offset}: {error}") from error


def _class_of(name: str) -> dict[str, str]:
    """The folder that an image lies in is its class, as in ImageNet."""
    folder = PurePosixPath(name).parent.name
    return {"class": folder} if folder else {}
