"""preprocessing.json beside weights: how pixels and words become the inputs that they were trained with.

    {"image_size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
     "crop_mode": "squash", "text_length": 64, "caption_length": 64, "tokenizer": "text_tokenizer.spm"}

Images are scaled to a square by `ImageTransform.center`: antialiased like Pillow's resize, after transparent pixels are
put on white and the EXIF orientation is applied.

The defaults are those of Microsoft's vision-language tasks, whose files record none: unilm/beit3 datasets.py
(IMAGENET_INCEPTION_MEAN and _STD, bicubic resize to a square) and run_beit3_finetuning.py (--num_max_bpe_tokens 64).
Their imagenet task, and so a network of classify, crops the center and normalizes by ImageNet's colors.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from annotated_types import Interval

from data_pipeline.images.transform import CropMode, ImageTransform
from data_pipeline.loading.config import DataConfig
from data_pipeline.settings.ranges import Side, TextLength, check_ranges
from model.config import CaptionHead, ClassHead, Heads, MultiwayConfig
from model.weight_files import read_json_object

PREPROCESSING_NAME = "preprocessing.json"
DEFAULT_LENGTH = 64
"""Default of Microsoft's --num_max_bpe_tokens."""
CAPTIONING_LENGTH = 32
"""Its value in their recipes of captioning."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of their imagenet task, timm's IMAGENET_DEFAULT_MEAN and _STD."""
Level = Annotated[float, Interval(ge=-1000, le=1000)]
Spread = Annotated[float, Interval(gt=0, le=1000)]


@dataclass(frozen=True)
class Preprocessing:
    """How images and texts become inputs of a network."""

    image_size: Side
    """Side in pixels of the square that an image is scaled to."""
    mean: tuple[Level, Level, Level] = (0.5, 0.5, 0.5)
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[Spread, Spread, Spread] = (0.5, 0.5, 0.5)
    """Divides them after that."""
    interpolation: Literal["bicubic"] = "bicubic"
    """Filter by which images are scaled, antialiased."""
    crop_mode: CropMode = "squash"
    """Part of an image that is scaled: squash: all of it, whatever its aspect; center: the largest square at its
    center."""
    text_length: TextLength = DEFAULT_LENGTH
    """Longest text in tokens, including <s> and </s>; longer ones are cut."""
    caption_length: TextLength = DEFAULT_LENGTH
    """Longest caption of an image-text pair, likewise."""
    tokenizer: str | None = None
    """File name of the text tokenizer in the same folder; None: there is none."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.tokenizer in ("", "..") or (self.tokenizer and Path(self.tokenizer).name != self.tokenizer):
            raise ValueError(f"tokenizer {self.tokenizer!r} is not the name of a file in the same folder")

    def image_transform(self, max_pixels: int = DataConfig.max_image_pixels) -> ImageTransform:
        """Return the transform whose `center` makes an image (3, image_size, image_size), without augmentation."""
        return ImageTransform(self.image_size, 1, 0, False, max_pixels, crop_mode=self.crop_mode)


def default_preprocessing(
    config: MultiwayConfig, tokenizer: str | None = None, heads: Heads | None = None
) -> Preprocessing:
    """Return that of weights which record none, such as Microsoft's: the size that the positions have, and the defaults
    of their task, but no texts longer than the network has positions for. heads: as for `build_network`."""
    length = min(CAPTIONING_LENGTH if isinstance(heads, CaptionHead) else DEFAULT_LENGTH, config.max_text_length)
    found = Preprocessing(config.image_size, text_length=length, caption_length=length, tokenizer=tokenizer)
    if not isinstance(heads, ClassHead):
        return found
    return replace(found, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_mode="center")


def task_preprocessing(config: MultiwayConfig, heads: Heads | None, text_length: int) -> Preprocessing:
    """Return that of our finetuning: as in Microsoft's code, but for the length of texts."""
    return replace(default_preprocessing(config, heads=heads), text_length=text_length, caption_length=text_length)


def write_preprocessing(preprocessing: Preprocessing, folder: Path) -> None:
    """Write FOLDER/preprocessing.json. Raises OSError if it cannot be written."""
    (folder / PREPROCESSING_NAME).write_text(json.dumps(asdict(preprocessing), indent=2) + "\n")


def read_preprocessing(folder: Path, heads: Heads | None = None) -> Preprocessing | None:
    """Return the content of FOLDER/preprocessing.json, None if there is no such file.

    heads: of the network there, as for `build_network`. Raises ValueError, naming the field, if it is not valid.
    """
    path = folder / PREPROCESSING_NAME
    if not path.exists():
        return None
    try:
        values = read_json_object(path)
        if isinstance(heads, ClassHead):  # files of earlier versions lack it
            values.setdefault("crop_mode", "center")
        return pydantic.TypeAdapter(Preprocessing).validate_python(values)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        reason = " ".join(f"{'.'.join(map(str, first['loc']))} {first['msg']}".split())
        raise ValueError(f"{path} is not valid: {reason}; write it again with pretrain.convert") from error
