"""Data configs of small runs, over local and remote shards."""

from pathlib import Path

from data_pipeline.loading.config import DataConfig, SamplesPerStep
from tests.support.tiny_run import TEXT_LENGTH, TinyData

PER_STEP = SamplesPerStep(images=4, pairs=8, texts=4)
IMAGE_SIZE = 32


def local_config(data: TinyData) -> DataConfig:
    return DataConfig(
        images=(str(data.folder / "images"),),
        pairs=(str(data.folder / "pairs"),),
        texts=(str(data.folder / "texts"),),
        text_tokenizer=data.folder / "text_tokenizer.spm",
        caption_length=20,
        text_length=TEXT_LENGTH,
        num_lanes=4,
    )


def remote_config(data: TinyData, root: str, cache_folder: Path) -> DataConfig:
    return DataConfig(
        images=(f"{root}/images",),
        pairs=(f"{root}/pairs",),
        texts=(f"{root}/texts",),
        text_tokenizer=data.folder / "text_tokenizer.spm",
        caption_length=20,
        text_length=TEXT_LENGTH,
        num_lanes=2,
        window_shards=1,
        cache_folder=cache_folder,
    )
