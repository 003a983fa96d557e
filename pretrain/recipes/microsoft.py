"""What the recipes after Microsoft's finetuning code share: networks, the optimizer, the size of COCO."""

from dataclasses import replace

from model.config import MultiwayConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.recipes.beit3 import beit3_base, beit3_giant, beit3_large

NUM_COCO_CAPTIONS = 566_747
"""Captions of COCO's images in Karpathy's splits train and restval."""


def base(image_size: int, drop_path_rate: float) -> MultiwayConfig:
    """Return the released base with images of this size, in pixels."""
    return replace(beit3_base().model, image_size=image_size, drop_path_rate=drop_path_rate)


def large(image_size: int, drop_path_rate: float) -> MultiwayConfig:
    """Return the released large likewise."""
    return replace(beit3_large().model, image_size=image_size, drop_path_rate=drop_path_rate)


def giant(image_size: int, drop_path_rate: float) -> MultiwayConfig:
    """Return the paper's giant likewise."""
    return replace(beit3_giant().model, image_size=image_size, drop_path_rate=drop_path_rate)


def microsofts_optimizer(peak_lr: float, warmup_steps: int, weight_decay: float = 0.05) -> OptimizerConfig:
    """Return the optimizer with the defaults of Microsoft's finetuning code."""
    return OptimizerConfig(
        peak_lr=peak_lr,
        min_lr=1e-6,
        warmup_steps=warmup_steps,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=weight_decay,
        gradient_clip=0.0,
    )
