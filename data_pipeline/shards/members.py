"""Members of a shard as parts of samples, by WebDataset's rules, and the reasons for skipping the others.

Every member is either a part of a kept sample, or skipped and counted by its reason.
"""

import hashlib
import json
import posixpath
import zlib
from dataclasses import dataclass

from data_pipeline.samples.sample import (
    IMAGE_BEGINNINGS,
    IMAGE_EXTENSIONS,
    PARTS,
    BadSampleError,
    Kind,
    PartName,
    check_text,
)
from data_pipeline.samples.tasks import is_task
from data_pipeline.shards.tar_members import CHUNK_BYTES, UNUSABLE, TarEntry, TarReader

MAX_KEY_BYTES = 200
"""Longer keys are cut and made unique by a hash: all keys of an index take the width of the longest."""
MAX_MEMBER_BYTES = (1 << 32) - 1
MAX_JSON_BYTES = 1 << 24
"""Longer .json members are not searched for a caption."""
OTHER_IMAGE_EXTENSIONS = ("gif", "bmp", "tif", "tiff", "avif", "jfif", "heic", "heif", "jp2", "jxl", "svg")
"""Extensions of images that are not read, each counted as a reason of its own."""
SECOND_IMAGE_EXTENSIONS = tuple(f"image2.{extension}" for extension in IMAGE_EXTENSIONS)
"""Extensions of the second image of a sample, as write_shards names it: KEY.image2.png."""
EARLY_DOT = "name has a dot before its extension, and WebDataset's key ends at the first dot"

MEMBER_DTYPE = [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")]
"""A member of a tar: offset and number of its bytes, and their CRC-32. Size 0 if there is none."""

Member = tuple[int, int, int]
NOTHING: Member = (0, 0, 0)


def indexed_parts(kind: Kind) -> tuple[PartName, ...]:
    """Return the parts that records of a kind have: those that it needs, and for pretraining always image and text."""
    return PARTS[kind] if is_task(kind) else ("image", "text")


def record_dtype(key_bytes: int, kind: Kind) -> list[tuple[str, object]]:
    """Return the dtype of one sample of an index: key, number of its shard, and a member per part."""
    parts = [(part, MEMBER_DTYPE) for part in indexed_parts(kind)]
    return [("key", f"S{key_bytes}"), ("shard", "<u4"), *parts]


@dataclass(frozen=True, slots=True)
class Part:
    """One member of a sample."""

    member: Member
    digest: bytes
    """SHA-256 of its image, text or annotation."""


@dataclass(frozen=True)
class MemberReader:
    """Reads the members of a tar as parts of samples."""

    caption_key: str = ""
    """Field of the .json member that holds the text; empty if the text is the .txt member."""
    kind: Kind = "pair"
    """Kind of the samples: it decides whether there are second images, and whether a .json member is a part."""

    def read(self, entry: TarEntry, tar: TarReader) -> tuple[str, str, Part]:
        """Return the key of a member's sample, the role in that sample, and the part.

        Raises BadSampleError if the member is not a part of any sample.
        """
        if entry.kind != "file":
            raise BadSampleError(UNUSABLE[entry.kind])
        key, extension = key_and_extension(entry.name)
        role = self._role(extension)
        if entry.size > MAX_MEMBER_BYTES:
            raise BadSampleError(f"member of more than 4 GiB ({entry.size} bytes)")
        return key, role, self._caption(entry, tar) if role == "text" and self.caption_key else _part(entry, role, tar)

    def _role(self, extension: str) -> str:
        if extension in IMAGE_EXTENSIONS:
            return "image"
        if "image2" in PARTS[self.kind] and extension in SECOND_IMAGE_EXTENSIONS:
            return "image2"
        if "json" in PARTS[self.kind] and extension == "json":
            return "json"
        if extension == "txt":
            return "unused .txt" if self.caption_key else "text"
        if extension == "json":
            return "text" if self.caption_key else ".json"
        last = extension.rpartition(".")[2]
        if last in (*IMAGE_EXTENSIONS, "txt", "json"):
            raise BadSampleError(EARLY_DOT)
        if last in OTHER_IMAGE_EXTENSIONS:
            raise BadSampleError(f".{last} is not a supported image format, convert it to .jpg, .png or .webp")
        raise BadSampleError("extension is neither an image's nor .txt nor .json")

    def _caption(self, entry: TarEntry, tar: TarReader) -> Part:
        if entry.size > MAX_JSON_BYTES:
            raise BadSampleError(f".json member of more than 16 MiB ({entry.size} bytes)")
        content = tar.read(entry.size)
        caption = caption_in_json(content, self.caption_key).encode()
        return Part((entry.offset, entry.size, zlib.crc32(content)), hashlib.sha256(caption).digest())


def key_and_extension(name: str) -> tuple[str, str]:
    """Split a name at the first dot after its folder, as WebDataset does; the extension in lower case.

    Raises BadSampleError if the name gives no key.
    """
    name = name.removeprefix("./")
    folder, base = posixpath.split(name)
    stem, dot, extension = base.partition(".")
    if "\0" in name:
        raise BadSampleError("name holds a NUL")
    if name.startswith("/") or ".." in folder.split("/"):
        raise BadSampleError("name leads out of the archive")
    if not dot:
        raise BadSampleError("name has no extension")
    if not stem:
        raise BadSampleError("name begins with a dot, which leaves no key")
    return posixpath.join(folder, stem), extension.lower()


def caption_in_json(content: bytes, caption_key: str) -> str:
    """Return the text in a field of a .json member. Raises BadSampleError if there is none."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(f".json member is not valid JSON ({error})") from error
    caption = fields.get(caption_key) if isinstance(fields, dict) else None
    if not isinstance(caption, str) or not caption.strip():
        raise BadSampleError(f".json member has no text in field {caption_key!r}")
    try:
        caption.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise BadSampleError("text is not UTF-8") from error
    check_text(caption)
    return caption


def short_key(key: str) -> bytes:
    """Return a key as it is stored in an index."""
    encoded = key.encode(errors="surrogateescape")
    if len(encoded) <= MAX_KEY_BYTES:
        return encoded
    digest = hashlib.sha256(encoded).hexdigest()[:16].encode()
    return encoded[: MAX_KEY_BYTES - 17].decode(errors="ignore").encode() + b"-" + digest


def _part(entry: TarEntry, role: str, tar: TarReader) -> Part:
    crc, digest, is_first = 0, hashlib.sha256(), True
    while chunk := tar.read(CHUNK_BYTES):
        if is_first and role in ("image", "image2") and not chunk.startswith(IMAGE_BEGINNINGS):
            raise BadSampleError(f"image is neither JPEG nor PNG nor WebP (it begins with {chunk[:8]!r})")
        crc, is_first = zlib.crc32(chunk, crc), False
        digest.update(chunk)
    return Part((entry.offset, entry.size, crc), digest.digest())
