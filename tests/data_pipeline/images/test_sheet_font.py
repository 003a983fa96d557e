"""Text on a contact sheet: what no font has is escaped, lines are wrapped between words."""

from pathlib import Path

from PIL import Image, ImageDraw

from data_pipeline.images.sheet_font import SheetFont


def test_a_character_that_no_font_has_is_escaped_and_reported(tmp_path: Path) -> None:
    font = SheetFont(["a red circle", "\u96ea"], 11, folders=(tmp_path,))  # no system font
    assert font.missing == {"\u96ea"} and font.shown("snow \n \u96ea") == "snow \\u96ea"


def test_lines_are_wrapped_between_words_and_long_words_are_broken(tmp_path: Path) -> None:
    font = SheetFont([], 11, folders=(tmp_path,))
    assert font.wrapped("one two", 1000, 5) == ["one two"]
    lines = font.wrapped("one two " + "x" * 100, 40, 4)
    assert lines[0] == "one" or lines[0] == "one two"
    assert len(lines) == 4 and all(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(line) <= 60 for line in lines)


def test_a_line_is_drawn(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20), "white")
    SheetFont([], 11, folders=(tmp_path,)).draw(ImageDraw.Draw(image), 2, 2, "abc", "black")
    assert min(image.convert("L").tobytes()) < 100
