"""The contact sheet of check_shards: random samples with their texts, as they are and as training sees them."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data_pipeline.images.decoding import open_image, to_rgb, upright
from data_pipeline.images.sheet_font import SheetFont
from data_pipeline.images.transform import ImageTransform
from data_pipeline.samples.sample import PARTS, BadSampleError, printable
from data_pipeline.samples.tasks import ClassAnnotation, Nlvr2Annotation, VqaAnnotation, is_task
from data_pipeline.shards.reader import UNREADABLE, SampleReader

VIEW = 128
"""Side of a picture on the sheet, in pixels."""
NUM_DRAWS = 2
MARGIN = 6
LINE = 14
TEXT_LINES = 5
PASSAGE_LINES = 14
"""Lines of a tile without a picture."""
TILE = (1 + NUM_DRAWS) * (VIEW + MARGIN) + MARGIN
"""Width of a sample's tile: the whole picture, and NUM_DRAWS random views of it."""
MAX_COLUMNS = 4
MAX_CHARACTERS = 1000


@dataclass(frozen=True)
class _Tile:
    """Pictures and text of one sample."""

    pictures: list[Image.Image]
    text: str
    color: str


def draw_sheet(reader: SampleReader, num_shown: int, seed: int, transform: ImageTransform) -> tuple[Image.Image, str]:
    """Return the sheet, and a sentence about characters that no font has. A bad sample shows its reason instead.

    transform: the run's augmentation.
    """
    num_shown = min(num_shown, reader.index.num_samples)
    chosen = np.random.default_rng(seed).choice(reader.index.num_samples, num_shown, replace=False)
    tiles = [_read_tile(reader, int(sample), seed, transform) for sample in sorted(chosen)]
    font = SheetFont((tile.text for tile in tiles), LINE - 3)
    has_pictures = reader.index.kind != "text"
    height = VIEW + 2 * MARGIN + LINE * TEXT_LINES if has_pictures else 2 * MARGIN + LINE * PASSAGE_LINES
    num_columns = min(MAX_COLUMNS, num_shown)
    sheet = Image.new("RGB", (num_columns * TILE, -(-num_shown // num_columns) * height + LINE), "white")
    drawn = f"each sample, and {NUM_DRAWS} draws of it"
    if "image2" in PARTS[reader.index.kind]:
        drawn = f"both images of each sample, and {NUM_DRAWS - 1} draw of the first"
    legend = f"{drawn} as a run of {transform.size} pixels sees it" * has_pictures
    font.draw(ImageDraw.Draw(sheet), MARGIN, 1, legend, "gray")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, num_columns)
        _draw_tile(sheet, tile, column * TILE, row * height + LINE, height, font)
    problem = f"{len(font.missing)} different characters are escaped, as no font of this machine has them"
    return sheet, problem if font.missing else ""


def _read_tile(reader: SampleReader, sample: int, seed: int, transform: ImageTransform) -> _Tile:
    parts = PARTS[reader.index.kind]
    pictures, key = list[Image.Image](), printable(reader.key(sample))
    text, color = key, "gray"
    try:
        if "image" in parts:
            encoded = reader.image_bytes(sample)
            pictures.append(_whole(encoded, transform.max_pixels))
            if "image2" in parts:
                pictures.append(_whole(reader.image_bytes(sample, "image2"), transform.max_pixels))
            for draw in range(1 + NUM_DRAWS - len(pictures)):
                rng = np.random.Generator(np.random.Philox(key=[seed, NUM_DRAWS * sample + draw]))
                view = Image.fromarray(np.ascontiguousarray(transform(encoded, rng).transpose(1, 2, 0)))
                # few pixels are shown as the run sees them, not smoothed
                how = Image.Resampling.NEAREST if transform.size < VIEW else Image.Resampling.BICUBIC
                pictures.append(view.resize((VIEW, VIEW), how))
        if said := _words(reader, sample):
            text, color = said[:MAX_CHARACTERS], "black"
    except UNREADABLE as error:
        pictures, text, color = [], f"{key}: {printable(str(error))}", "red"
    return _Tile(pictures, text, color)


def _words(reader: SampleReader, sample: int) -> str:
    """Return the texts of a sample, and for one of a task its answers or label."""
    texts = list(reader.texts(sample))
    if is_task(reader.index.kind):
        annotation = reader.annotation(sample)
        if isinstance(annotation, VqaAnnotation) and annotation.answers is not None:
            texts.append(", ".join(f"{answer} {score:g}" for answer, score in annotation.answers.items()))
        elif isinstance(annotation, Nlvr2Annotation) and annotation.label is not None:
            texts.append("true" if annotation.label else "false")
        elif isinstance(annotation, ClassAnnotation):
            texts.append(f"{annotation.label}: {annotation.name}")
    return " | ".join(texts)


def _whole(encoded: bytes, max_pixels: int) -> Image.Image:
    """Return the upright image in its aspect ratio, at most VIEW pixels per side."""
    with open_image(encoded, max_pixels) as image:
        try:
            scale = VIEW / max(image.size)
            size = (max(1, round(image.size[0] * scale)), max(1, round(image.size[1] * scale)))
            image.draft(image.mode, size)
            return upright(to_rgb(image).resize(size, Image.Resampling.BICUBIC), image)
        except Exception as error:  # a decoder can raise anything for broken bytes
            raise BadSampleError(f"image cannot be decoded ({error})") from error


def _draw_tile(sheet: Image.Image, tile: _Tile, left: int, top: int, height: int, font: SheetFont) -> None:
    bottom = top + height
    for number, picture in enumerate(tile.pictures):
        sheet.paste(picture, (left + MARGIN + number * (VIEW + MARGIN), top + MARGIN))
    top += MARGIN + (VIEW + MARGIN if tile.pictures else 0)
    draw = ImageDraw.Draw(sheet)
    for line in font.wrapped(tile.text, TILE - 2 * MARGIN, (bottom - top) // LINE):
        font.draw(draw, left + MARGIN, top, line, tile.color)
        top += LINE
