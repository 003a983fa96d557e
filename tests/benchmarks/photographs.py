"""Photographs to measure on: crops of those that scikit-image and scikit-learn contain, as pair shards.

images scikit-image 0.26 (skimage.data) and scikit-learn 1.9 (load_sample_images); no network.
"""

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.packages import install_line

MIN_CROP, MAX_CROP = 300, 1200
QUALITY = 90
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
"""Packages by import name."""
_FILES = {
    "skimage": (
        "data/astronaut.png data/chelsea.png data/coffee.png data/hubble_deep_field.jpg data/ihc.png"
        " data/motorcycle_left.png data/motorcycle_right.png data/retina.jpg data/rocket.jpg"
    ).split(),
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}


def load_photographs() -> list[Image.Image]:
    """Return color photographs, read without importing their packages. Raises ValueError if a package is missing."""
    photographs = []
    for package, names in _FILES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{package} with its photographs is missing; {install_line([PACKAGES[package]])}")
        folder = Path(spec.submodule_search_locations[0])
        photographs += [Image.open(folder / name).convert("RGB") for name in names]
    return photographs


def write_photograph_shards(
    folder: Path, photographs: list[Image.Image], size: tuple[int, int], num_shards: int, per_shard: int, seed: int = 0
) -> None:
    """Write WebDataset pair shards of different crops, each resized to `size`, as JPEG with a caption."""
    rng = np.random.default_rng(seed)
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for place in range(per_shard):
                number = shard * per_shard + place
                encoded = _encode(_crop(photographs[number % len(photographs)], size, rng))
                for extension, content in (("jpg", encoded), ("txt", _caption(number, size).encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _crop(photograph: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a crop of 300 to 1200 pixels, as far as the photograph allows, with the aspect ratio of `size`."""
    aspect = size[0] / size[1]
    largest = min(MAX_CROP, photograph.width, photograph.height * aspect)
    width = rng.uniform(min(MIN_CROP, largest), largest)
    left = rng.uniform(0, photograph.width - width)
    top = rng.uniform(0, photograph.height - width / aspect)
    box = (left, top, left + width, top + width / aspect)
    return photograph.resize(size, Image.Resampling.BICUBIC, box=box)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _caption(number: int, size: tuple[int, int]) -> str:
    return f"part number {number} of a photograph, {size[0]} pixels wide and {size[1]} pixels high"
