"""Arguments of small runs that are evaluated, and labelled images for them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.shard_files import index_folder, png, write_tar
from tests.support.tiny_run import TinyData

EVERY = 3
NUM_SAMPLES = 10
CHUNK = 4


def write_labelled(folder: Path, num_classes: int = 3, num_images: int = 4) -> Path:
    """Write images of one channel's colors in a sub-folder per class."""
    generator = np.random.default_rng(0)
    for number in range(num_classes):
        (folder / f"class_{number}").mkdir(parents=True)
        for place in range(num_images):
            pixels = generator.integers(0, 200, (40, 40, 3)).astype(np.uint8)
            pixels[..., number % 3] = 255
            Image.fromarray(pixels).save(folder / f"class_{number}" / f"{place}.png")
    return folder


def write_captioned_classes(folder: Path, classes: Sequence[str]) -> Path:
    """Write indexed shards of pairs whose captions are classes, and whose images are as red as their numbers."""
    members = [
        (f"{number}.{end}", content)
        for number, name in enumerate(classes)
        for end, content in (("png", png((number, 0, 0))), ("txt", name.encode()))
    ]
    write_tar(folder / "0.tar", members)
    index_folder(folder)
    return folder


def evaluation_overrides(data: TinyData, labelled: Path | None = None, every: int = EVERY) -> list[object]:
    """Return arguments for an evaluation with every figure, on samples that the run also trains on."""
    values: dict[str, object] = {kind: data.folder / kind for kind in ("images", "pairs", "texts")}
    values |= {"every-steps": every, "num-samples": NUM_SAMPLES, "num-words": NUM_SAMPLES, "chunk-size": CHUNK}
    values |= {} if labelled is None else {"labelled": labelled}
    return [word for name, value in values.items() for word in (f"--evaluation.{name}", value)]
