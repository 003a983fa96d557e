"""Fields that the sources of tasks share: image paths, texts that may be token ids, and ids that must not recur.

Microsoft's index files (beit3/datasets.py) hold texts as ids of beit3.spm alone, in `text_segment`: they are decoded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.sources.captioned_objects import image_path_of
from data_pipeline.sources.entries import EntryError, field_of
from data_pipeline.sources.text_lines import text_of

Decode = Callable[[list[int]], str]
"""Return the text of token ids."""


@dataclass(frozen=True)
class AnnotatedFields:
    """Where the entries of a JSON file have images and texts."""

    root: Path
    """Folder that image paths are relative to."""
    image: str
    """Field with the path of the image; Microsoft's is image_path."""
    text: str
    """Field with the text; Microsoft's is text_segment."""
    decode: Decode | None = None
    """Decoder of Microsoft's token ids; None if no text tokenizer was given."""

    def image_name(self, entry: Any, second: bool = False) -> str:
        """Return the path of an entry's image. Raises EntryError if it has none."""
        if not isinstance(entry, dict):
            raise EntryError("entry is not a JSON object")
        theirs = "image2_path" if second else "image_path"
        return image_path_of(entry, theirs if theirs in entry else "image2" if second else self.image)

    def text_in(self, entry: dict[str, Any]) -> str:
        """Return the text of an entry. Raises EntryError if it has none, ValueError if ids cannot be decoded."""
        if "text_segment" not in entry:
            return text_of(entry, self.text)
        ids = field_of(entry, "text_segment", list)
        if not ids or not all(isinstance(number, int) and not isinstance(number, bool) for number in ids):
            raise EntryError("'text_segment' is not a list of token ids")
        if self.decode is None:
            raise ValueError("'text_segment' holds token ids; give the text tokenizer that made them: --text-tokenizer")
        return self.decode(ids)


@dataclass
class Unique:
    """Ids that may occur once in a source."""

    name: str
    """Name of such an id, for messages."""
    seen: set[int | str] = field(default_factory=set)

    def add(self, number: Any) -> None:
        """Raise EntryError if the id has occurred before, or is neither a number nor a text."""
        if isinstance(number, bool) or not isinstance(number, int | str):
            raise EntryError(f"{self.name} is neither a number nor a text ({number!r:.60})")
        if number in self.seen:
            raise EntryError(f"{self.name} occurs twice ({number!r:.60})")
        self.seen.add(number)
