"""The loaders that bench_data compares, each in the same number of worker processes."""

import importlib
import io
import tarfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data_pipeline.images.transform import random_crop
from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.samples.sample import Kind
from data_pipeline.texts.tokenizer import PAD_ID, TextTokenizer
from tests.support.beside_cpu_torch import import_beside_cpu_torch

PEER_PACKAGES = {
    "open_clip": "open_clip_torch",
    "timm": "timm",
    "torchvision": "torchvision",
    "ftfy": "ftfy",
    "regex": "regex",
    "wcwidth": "wcwidth",
    "pandas": "pandas",
    "dateutil": "python-dateutil",
    "six": "six",
    "simplejpeg": "simplejpeg",
}
"""Packages by import name, including those that open_clip's training needs."""
IMAGE_SIZE = 224
"""Size of the larger of the two views, for a network of 224 px and a tokenizer of 112 or 224 px."""
TEXT_LENGTH = 512
SEED = 0
NUM_STEPS = 1_000_000
SHUFFLE_BUFFER = 200
"""Samples in open_clip's shuffle buffer; its default of 5000 would be filling throughout and lower its rate."""


def pair_loaders(
    shards: Path, tokenizer: TextTokenizer, batch_size: int, num_workers: int
) -> dict[str, Callable[[], Any]]:
    """Return our loader and its peers by name; a peer whose package is missing is left out with a message."""
    _write_index(shards, "pair")
    ours = _step_dataset(shards, tokenizer, SamplesPerStep(images=0, pairs=batch_size, texts=0))
    loaders: dict[str, Callable[[], Any]] = {"ours": lambda: step_batches(ours, 0, NUM_STEPS, num_workers)}
    decoders: dict[str, Callable[[bytes, np.random.Generator], object]] = {"bare": decode_and_resize}
    try:
        get_dataset = _open_clip(shards, batch_size, num_workers)
        loaders["open_clip"] = lambda: get_dataset().dataloader
    except (ImportError, ValueError) as error:
        print(f"without open_clip_torch ({error}): no comparison with it")
    try:
        decoders["simplejpeg"] = _simplejpeg_decoder()
    except ImportError as error:
        print(f"without simplejpeg ({error}): no comparison with it")
    encoded = _members(shards, ".jpg")
    for name, decode in decoders.items():
        dataset = _InMemory(encoded, batch_size, decode)
        loaders[name] = lambda dataset=dataset: _loader(dataset, num_workers)  # type: ignore[misc]
    return loaders


def text_loaders(
    shards: Path, tokenizer: TextTokenizer, batch_size: int, num_workers: int
) -> dict[str, Callable[[], Any]]:
    """Return our loader, and SentencePiece alone on the same texts in memory."""
    _write_index(shards, "text")
    ours = _step_dataset(shards, tokenizer, SamplesPerStep(images=0, pairs=0, texts=batch_size))
    texts = [text.decode() for text in _members(shards, ".txt")]
    bare = _InMemory(texts, batch_size, lambda text, rng: len(tokenizer._model.encode(text)) + 2)
    return {"ours": lambda: step_batches(ours, 0, NUM_STEPS, num_workers), "bare": lambda: _loader(bare, num_workers)}


def num_tokens(batch: StepBatch | list[int]) -> int:
    return sum(batch) if isinstance(batch, list) else int((batch.text_ids != PAD_ID).sum())


def decode_and_resize(encoded: bytes, rng: np.random.Generator) -> Image.Image:
    """Crop as cheaply as Pillow can: decode at the smallest scale that the crop allows, resize once."""
    with Image.open(io.BytesIO(encoded)) as image:
        width, height = image.size
        box = random_crop(width, height, 0.2, rng)
        shrink = min(box[2] - box[0], box[3] - box[1]) / IMAGE_SIZE
        if shrink > 1:
            image.draft("RGB", (int(width / shrink), int(height / shrink)))
        scale = image.size[0] / width
        scaled = (box[0] * scale, box[1] * scale, min(box[2] * scale, image.width), min(box[3] * scale, image.height))
        return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=scaled)


class _InMemory(Dataset[list[Any]]):
    """A batch per step of the results of `make` for contents in memory, in turn; no shards, no collation."""

    def __init__(self, contents: list[Any], batch_size: int, make: Callable[[Any, np.random.Generator], Any]):
        self.contents, self.batch_size, self.make = contents, batch_size, make

    def __getitem__(self, step: int) -> list[Any]:
        rng = np.random.default_rng([SEED, step])
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        made = [self.make(self.contents[place % len(self.contents)], rng) for place in places]
        return made if isinstance(made[0], int) else []  # images are not sent: only making them counts


def _write_index(folder: Path, kind: Kind) -> None:
    index_shards(IndexOptions(kind, str(folder), num_workers=1))


def _step_dataset(shards: Path, tokenizer: TextTokenizer, per_step: SamplesPerStep) -> StepDataset:
    config = DataConfig(
        images=(str(shards),),
        pairs=(str(shards),),
        texts=(str(shards),),
        text_tokenizer=tokenizer.path,
        text_length=TEXT_LENGTH,
        num_lanes=8,
    )
    return StepDataset(config, per_step, IMAGE_SIZE, SEED)


def _loader(dataset: Dataset[Any], num_workers: int) -> DataLoader[Any]:
    return DataLoader(dataset, sampler=range(NUM_STEPS), batch_size=None, num_workers=num_workers)


def _members(folder: Path, extension: str) -> list[bytes]:
    contents = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [tar.extractfile(member) for member in tar if member.name.endswith(extension)]
            contents += [member.read() for member in members if member is not None]
    return contents


def _open_clip(shards: Path, batch_size: int, num_workers: int) -> Callable[[], Any]:
    """Return open_clip's own training pipeline: its transform (no jitter, crops of 90 % or more), its tokenizer."""
    open_clip = import_beside_cpu_torch("open_clip")
    data: Any = import_beside_cpu_torch("open_clip_train.data")
    # webdataset 1.0.2 marks the end of a shard, which open_clip_torch 3.3.0 does not expect
    data.tar_file_expander = partial(data.tar_file_expander, eof_value=None)
    data._SAMPLE_SHUFFLE_SIZE = data._SAMPLE_SHUFFLE_INITIAL = SHUFFLE_BUFFER
    names = sorted(path.stem for path in shards.glob("*.tar"))
    arguments = Namespace(
        train_data=f"{shards}/{{{names[0]}..{names[-1]}}}.tar",
        train_num_samples=NUM_STEPS * batch_size,
        train_data_upsampling_factors=None,
        dataset_resampled=True,
        batch_size=batch_size,
        workers=num_workers,
        world_size=1,
        seed=SEED,
    )
    transform = open_clip.image_transform(IMAGE_SIZE, is_train=True)
    tokenizer = open_clip.SimpleTokenizer()
    return lambda: data.get_wds_dataset(arguments, transform, is_train=True, tokenizer=tokenizer)


def _simplejpeg_decoder() -> Callable[[bytes, np.random.Generator], object]:
    simplejpeg = importlib.import_module("simplejpeg")

    def decode(encoded: bytes, rng: np.random.Generator) -> Image.Image:
        height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
        box = random_crop(width, height, 0.2, rng)
        shrink = max(1.0, min(box[2] - box[0], box[3] - box[1]) / IMAGE_SIZE)
        pixels = simplejpeg.decode_jpeg(encoded, "RGBX", min_height=int(height / shrink), min_width=int(width / shrink))
        image = Image.frombuffer("RGBX", (pixels.shape[1], pixels.shape[0]), pixels, "raw", "RGBX", 0, 1)
        scale = image.width / width
        scaled = (box[0] * scale, box[1] * scale, min(box[2] * scale, image.width), min(box[3] * scale, image.height))
        return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=scaled)

    return decode
