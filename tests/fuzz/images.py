"""Images: whatever the bytes, a run and write_shards decode them or report a bad sample."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.images.transform import ImageTransform
from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.shards.writer import SampleFilter, sample_members
from tests.fuzz.mutations import mutated
from tests.fuzz.watched import Case

SIZE = 32
OPTIONS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("JPEG", "RGB", {"quality": 80}),
    ("JPEG", "RGB", {"progressive": True, "icc_profile": b"x" * 3000}),
    ("JPEG", "CMYK", {}),
    ("JPEG", "L", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"quality": 50}),
    ("GIF", "P", {"save_all": True}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("BMP", "RGB", {}),
)


def make_case(folder: Path) -> Case:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    images = tuple(_encoded(pixels, *option) for option in OPTIONS)
    transform = ImageTransform(SIZE, 0.2, 0.4, True, 1_000_000)
    keep = SampleFilter(max_side=40, max_image_pixels=1_000_000, held_out_fraction=0)

    def case(rng: random.Random, folder: Path) -> str:
        encoded = mutated(rng.choice(images), rng, images)
        outcomes = []
        try:
            made = transform(encoded, np.random.default_rng(0))
            assert made.shape == (3, SIZE, SIZE) and made.dtype == np.uint8
            outcomes.append("read")
        except BadSampleError:
            outcomes.append("bad")
        try:
            members = sample_members(Record("x", encoded), "image", keep, None)
            assert members
            for content in members.values():
                transform.center(content)  # a written image can be read
            outcomes.append("written")
        except BadSampleError:
            outcomes.append("skipped")
        return " ".join(outcomes)

    return case


def _encoded(pixels: np.ndarray, form: str, mode: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = image.convert("RGB").convert(mode) if mode != "RGBA" else image
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
