"""What a run reads, and how samples become batches."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataConfig:
    """Shards, tokenizer and augmentation. Batch sizes belong to the run."""

    images: Path
    """Folder of image shards."""
    pairs: Path
    """Folder of image-text shards."""
    texts: Path
    """Folder of text shards."""
    text_tokenizer: Path
    """SentencePiece model, such as beit3.spm."""
    caption_length: int = 64
    """Tokens of a caption with <s> and </s>; longer ones are cut, shorter ones padded."""
    text_length: int = 512
    """Tokens of a text passage with <s> and </s>."""
    num_lanes: int = 64
    """Independent sequences of samples; must divide the global batch of each kind. Part of the sample order."""
    window_shards: int = 4
    """Shards of a lane among which samples are mixed. Part of the sample order."""
    min_crop_scale: float = 0.2
    """Smallest part of an image's area that the random crop keeps."""
    color_jitter: float = 0.4
    """Strength of brightness, contrast and saturation jitter."""
    horizontal_flip: bool = True
    """Mirror half of the images."""
    num_workers: int = 4
    """Loader processes per rank; 0 reads in the training process. Does not change the batches."""
    max_bad_samples: int = 1000
    """The run stops when more samples than this had to be skipped."""
    max_image_pixels: int = 64_000_000
    """Larger images are bad samples."""
    max_member_bytes: int = 64_000_000
    """Larger members of a shard are bad samples."""

    def __post_init__(self) -> None:
        if not 0 < self.min_crop_scale <= 1:
            raise ValueError(f"min_crop_scale {self.min_crop_scale} must lie in (0, 1]")
        if not 0 <= self.color_jitter < 1:
            raise ValueError(f"color_jitter {self.color_jitter} must lie in [0, 1)")
        if self.num_lanes < 1 or self.window_shards < 1 or self.num_workers < 0:
            raise ValueError("num_lanes and window_shards must be at least 1, num_workers at least 0")
        if self.caption_length < 3 or self.text_length < 3:
            raise ValueError("caption_length and text_length must be at least 3: <s>, a word, </s>")
