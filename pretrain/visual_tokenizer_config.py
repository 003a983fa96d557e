"""Everything that defines a visual tokenizer's training."""

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import DataConfig
from model.visual_tokenizer import VisualTokenizerConfig


@dataclass(frozen=True)
class VisualTokenizerRun:
    """VQ-KD training on the image shards of `data`. The defaults are BEiT v2's where it published them."""

    model: VisualTokenizerConfig
    data: DataConfig
    out: Path
    """The file to write."""
    num_steps: int
    """Optimizer steps."""
    images_per_step: int = 512
    """Images in a batch."""
    lr: float = 2e-4
    """Learning rate after warmup."""
    warmup_steps: int = 1000
    """Steps of linear warmup."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.99
    """Decay of the second moment."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    seed: int = 0
    """Of initial weights, sample order, augmentation and codebook."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.images_per_step < 1 or self.warmup_steps < 1:
            raise ValueError("num_steps, images_per_step and warmup_steps must be at least 1")
