"""One sample, from any source, on its way into a shard."""

import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

PretrainingKind = Literal["image", "pair", "text"]
Kind = Literal["image", "pair", "text", "vqa", "nlvr2", "caption", "label"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds: those of pretraining, in their order in a batch, and those of tasks (samples/tasks.py)."""
PartName = Literal["image", "image2", "text", "json"]
"""Name of a part of a sample: a member of a shard, and a field of an index."""
PARTS: dict[Kind, tuple[PartName, ...]] = {
    "image": ("image",),
    "pair": ("image", "text"),
    "text": ("text",),
    "vqa": ("image", "text", "json"),
    "nlvr2": ("image", "image2", "text", "json"),
    "caption": ("image", "json"),
    "label": ("image", "json"),
}
"""The parts that a sample of each kind must have."""

_INVISIBLE = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))
"""Unicode categories without a visible glyph: controls, format (zero-width) characters, separators."""

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
IMAGE_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
"""The first bytes of a JPEG, a PNG and a WebP file."""


MAX_PRINTED = 300
"""Maximum characters of a name in a message."""


def printable(name: str) -> str:
    """Return a name for a message: control characters and invalid UTF-8 escaped, cut if it is long.

    Whoever makes a file chooses its keys: they must not move a terminal's cursor or fill a screen.
    """
    if len(name) > MAX_PRINTED:
        name = f"{name[: MAX_PRINTED // 2]}...{name[-MAX_PRINTED // 2 :]}"
    return name if name.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in name)


def printable_lines(text: str) -> str:
    """Return a message with all control characters but line ends escaped: it may quote untrusted files."""
    return "".join(c if c.isprintable() or c in "\n\t" else printable(c) for c in text)


def is_utf8(name: str) -> bool:
    """Return whether a file name, in which invalid bytes are lone surrogates, is UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def key_text(key: bytes) -> str:
    """Return an index's key for a message."""
    return printable(bytes(key).decode(errors="surrogateescape"))


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # an invalid byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character."""
    return all(unicodedata.category(character) in _INVISIBLE for character in text)


class BadSampleError(Exception):
    """Raised for a sample that cannot be used, with the reason. It is skipped and counted, never fatal by itself."""

    @property
    def reason(self) -> str:
        """Message without its details in parentheses: bad samples are counted by it."""
        return str(self).partition(" (")[0]

    @property
    def details(self) -> str:
        return str(self).removeprefix(self.reason)


def check_text(text: str) -> None:
    """Raise BadSampleError for a text without content. Writing, checking and training apply the same rule."""
    if is_blank(text):
        raise BadSampleError("text has no visible character")
    if "\0" in text:
        raise BadSampleError(f"text holds a NUL (at character {text.index(chr(0))})")


@dataclass(frozen=True)
class BadSample:
    """A sample that was skipped."""

    shard: str
    """Path or URL."""
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.shard)}:{printable(self.key)}: {printable(self.reason)}"


@dataclass(frozen=True)
class Sample:
    """Images, a text, or both."""

    key: str
    """Key, unique within its shards, without dots and slashes."""
    image: bytes | None = None
    """Encoded image file."""
    text: str | None = None
    """Caption, passage, question or statement."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Content of the .json member; for a sample of a task its annotation, see samples/tasks.py."""
    image2: bytes | None = None
    """The second encoded image of kind nlvr2."""
