"""One sample, from any source, on its way into a shard."""

import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["image", "pair", "text"]

_INVISIBLE = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))
"""Unicode's categories of characters that show nothing: controls, format (zero-width) characters, spaces."""

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


def is_blank(text: str) -> bool:
    """Whether a text has no visible character."""
    return all(unicodedata.category(character) in _INVISIBLE for character in text)


class BadSampleError(Exception):
    """This sample cannot be used; the message says why. It is skipped and counted, never fatal by itself."""

    @property
    def reason(self) -> str:
        """The message without its details, which stand in parentheses: to count by."""
        return str(self).partition(" (")[0]

    @property
    def details(self) -> str:
        return str(self).removeprefix(self.reason)


@dataclass(frozen=True)
class BadSample:
    """A sample that had to be skipped."""

    shard: str
    """Path or URL."""
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}:{self.key}: {self.reason}"


@dataclass(frozen=True)
class Sample:
    """An image, a text, or both."""

    key: str
    """Unique within its shards; no dot and no slash."""
    image: bytes | None = None
    """The encoded image file."""
    text: str | None = None
    """A caption or a passage."""
    metadata: dict[str, Any] = field(default_factory=dict)
