"""Text of any script on a picture, drawn with fonts that have its characters; others are escaped.

Pillow's own font has little beyond ASCII and draws boxes for the rest. The system's fonts are searched only if there is
such a character.
"""

import itertools
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".local/share/fonts")
MAX_FONTS_TRIED = 300
MAX_FONTS_USED = 5
_NO_CHARACTER = "\U0010ffff"
_STYLED = ("bold", "italic", "oblique", "condensed", "light", "black", "thin", "medium", "mono")
"""Parts of names of fonts that are harder to read than their plain siblings."""


class SheetFont:
    """A set of fonts for given texts."""

    def __init__(self, texts: Iterable[str], size: int, folders: tuple[Path, ...] = FONT_FOLDERS):
        """size: in pixels."""
        default = ImageFont.load_default(size)
        assert isinstance(default, FreeTypeFont)  # wheels of Pillow have FreeType
        self._fonts = [default]
        self.missing = {character for text in texts for character in text if not character.isspace()}
        """Characters that no font has, which are escaped."""
        self.missing -= _covered(self._fonts[0], self.missing)
        if self.missing:
            self._add_system_fonts(size, folders)

    def _add_system_fonts(self, size: int, folders: tuple[Path, ...]) -> None:
        """Add the fonts that together have most of the missing characters."""
        covered = {}
        for path in itertools.islice(_font_files(folders), MAX_FONTS_TRIED):
            try:
                font = ImageFont.truetype(path, size)
                covered[font] = _covered(font, self.missing)
            except (OSError, ValueError):  # a bitmap font of one size, or a damaged one
                continue
        while covered and len(self._fonts) < MAX_FONTS_USED:
            best = max(covered, key=lambda font: len(covered[font] & self.missing))
            if not covered[best] & self.missing:
                break
            self._fonts.append(best)
            self.missing -= covered[best]

    def shown(self, text: str) -> str:
        """Return the text as one line, with escapes for characters that cannot be drawn."""
        return "".join(_escaped(c) if c in self.missing else c for c in " ".join(text.split()))

    def wrapped(self, text: str, width: int, max_lines: int) -> list[str]:
        """Return at most max_lines lines of at most `width` pixels, broken between words if possible."""
        lines, line = list[str](), ""
        for word in self.shown(text).split(" "):
            if line and self._width(f"{line} {word}") <= width:
                line = f"{line} {word}"
                continue
            lines += [line] if line else []
            line = word
            while len(line) > 1 and self._width(line) > width and len(lines) < max_lines:
                end = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or self._width(line[:n]) <= width)
                lines.append(line[:end])
                line = line[end:]
            if len(lines) >= max_lines:
                break
        return [*lines, line][:max_lines]

    def draw(self, draw: ImageDraw.ImageDraw, left: float, top: float, line: str, color: str) -> None:
        """Draw a line, each run of characters with the first font that has them."""
        for font, characters in itertools.groupby(line, self._font_of):
            run = "".join(characters)
            draw.text((left, top), run, fill=color, font=font)
            left += font.getlength(run)

    def _width(self, line: str) -> float:
        return sum(font.getlength("".join(run)) for font, run in itertools.groupby(line, self._font_of))

    def _font_of(self, character: str) -> FreeTypeFont:
        for font in self._fonts:
            if character.isspace() or _has(font, character):
                return font
        return self._fonts[0]


def _covered(font: FreeTypeFont, characters: set[str]) -> set[str]:
    return {character for character in characters if _has(font, character)}


@cache
def _has(font: FreeTypeFont, character: str) -> bool:
    """Return whether a font draws a character: not as nothing, nor as the box for characters that it lacks."""
    glyph, box = font.getmask(character), font.getmask(_NO_CHARACTER)
    return bool(glyph.getbbox()) and (glyph.size != box.size or bytes(glyph) != bytes(box))


def _font_files(folders: tuple[Path, ...]) -> list[Path]:
    """Return the font files in the folders, plain styles first."""
    found = [
        path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]
    return sorted(found, key=lambda path: (any(style in path.stem.lower() for style in _STYLED), path.name))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
