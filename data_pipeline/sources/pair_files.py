"""Images beside captions of the same name: a.jpg with a.txt, in a folder or in a tar."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from data_pipeline.samples.records import Record, TarMember
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.shards.members import EARLY_DOT, key_and_extension
from data_pipeline.shards.tar_members import UNUSABLE, TarEntry, TarError, TarReader, open_tar
from data_pipeline.sources.entries import RefusedFileError
from data_pipeline.sources.files import is_hidden, walk
from data_pipeline.sources.images import READ_EXTENSIONS, is_image_name
from data_pipeline.sources.text_lines import open_text

MAX_CAPTION_BYTES = 1 << 20
"""Larger files beside an image are not captions."""
NO_IMAGE = "caption has no image beside it"
NO_CAPTION = "image has no caption beside it"


def has_caption_files(folder: Path) -> bool:
    """Return whether any image of a folder has a caption of the same name."""
    names = (name for name in walk(folder) if not is_hidden(name) and is_image_name(name))
    return any(_caption_name(folder, name) is not None for name in names)


def pairs_of_folder(folder: Path) -> Iterator[Record]:
    """Yield images at any depth with the text files of the same name, as written by img2dataset --output_format files.

    All other files become records with a problem.
    """
    for name in walk(folder, with_special=True):
        path, caption_name = folder / name, _caption_name(folder, name)
        problem = ""
        if is_hidden(name):
            problem = "file is hidden"
        elif is_image_name(name):
            if caption_name is None:
                problem = NO_CAPTION
        elif name.lower().endswith(".txt"):
            if _stem(name) not in _beside(path.parent).images:
                problem = NO_IMAGE
            elif caption_name == path.name:
                continue  # read with its image
            else:
                problem = f"image has another caption ({caption_name})"
        else:
            problem = "file is neither an image nor a caption by its name"
        if problem or caption_name is None:
            yield Record(name, problem=problem, place=str(path))
        else:
            yield _pair(name, path, path.with_name(caption_name))


def _pair(name: str, path: Path, caption_path: Path) -> Record:
    try:
        if caption_path.is_file() and caption_path.stat().st_size > MAX_CAPTION_BYTES:
            return Record(name, problem=f"caption is larger than {MAX_CAPTION_BYTES} bytes", place=str(caption_path))
        with open_text(caption_path) as lines:
            return Record(name, path, lines.read(), place=str(path))
    except FileNotFoundError:
        return Record(name, problem="caption is a dangling link", place=str(caption_path))
    except RefusedFileError as error:
        return Record(name, problem=error.problem.replace("file", "caption", 1), place=str(caption_path))


@dataclass
class _Beside:
    """Captions and images of one folder, by names without extensions."""

    captions: dict[str, str]
    images: set[str]


@lru_cache(maxsize=16)  # parents of the current folder are needed again
def _beside(folder: Path) -> _Beside:
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    captions = {_stem(name): name for name in sorted(names, reverse=True) if name.lower().endswith(".txt")}
    return _Beside(captions, {_stem(name) for name in names if is_image_name(name)})


def _caption_name(folder: Path, name: str) -> str | None:
    return _beside((folder / name).parent).captions.get(_stem(name))


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def pairs_of_tar(path: Path) -> Iterator[Record]:
    """Yield the images of a tar with the texts of the same key, in any order, as in index_shards.

    All other members become records with a problem. Raises ValueError if the tar is damaged.
    """
    images: dict[str, list[tuple[str, TarMember]]] = {}
    captions: dict[str, list[tuple[str, str | None]]] = {}
    try:
        with open_tar(path) as reader:
            for member in reader:
                try:
                    key, is_image = _key_and_role(member)
                except BadSampleError as error:
                    yield Record(member.name, problem=str(error), place=f"{path}: {member.name}")
                    continue
                if is_image:
                    location = TarMember(path, member.offset, member.size)
                    images.setdefault(key, []).append((member.name, location))
                else:
                    captions.setdefault(key, []).append((member.name, _caption(reader, member)))
    except TarError as error:
        raise ValueError(f"{error}; unpack or download it again") from error
    for key, found in images.items():
        texts = captions.pop(key, [])
        for number, (name, location) in enumerate(found):
            place = f"{path}: {name}"
            if number or not texts:
                yield Record(name, problem="key has a second image" if number else NO_CAPTION, place=place)
            elif texts[0][1] is None:
                yield Record(name, problem=f"caption is larger than {MAX_CAPTION_BYTES} bytes", place=place)
            else:
                yield Record(f"{key}.jpg", location, texts[0][1], place=place)
        for name, _ in texts[1:]:
            yield Record(name, problem="key has a second text", place=f"{path}: {name}")
    for rest in captions.values():
        for name, _ in rest:
            yield Record(name, problem=NO_IMAGE, place=f"{path}: {name}")


def _key_and_role(member: TarEntry) -> tuple[str, bool]:
    """Return the key of a member and whether it is the image. Raises BadSampleError if it is neither image nor text."""
    if member.kind != "file":
        raise BadSampleError(UNUSABLE[member.kind])
    if is_hidden(member.name):
        raise BadSampleError("member is hidden")
    key, extension = key_and_extension(member.name)
    if extension not in (*READ_EXTENSIONS, "txt"):
        is_named_so = extension.rpartition(".")[2] in (*READ_EXTENSIONS, "txt")
        raise BadSampleError(EARLY_DOT if is_named_so else "member is neither an image nor a caption by its name")
    return key, extension != "txt"


def _caption(reader: TarReader, member: TarEntry) -> str | None:
    """Return the caption in a member; None if it is too large."""
    if member.size > MAX_CAPTION_BYTES:
        return None
    return reader.read(member.size).decode("utf-8-sig", "surrogateescape")
