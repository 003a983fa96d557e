"""VLMo's sizes (arXiv 2111.02358) under the masked data modeling objective.

Taken from VLMo: sizes, vision-language experts, steps, peak learning rate, caption length, mask ratio. Not implemented:
layer scale, relative positions, linear decay (ours is a cosine), whole-word masking, three stages, contrastive and
matching losses. Its blocks have no SubLN. Whole images in half of the pairs are our choice.
"""

from dataclasses import replace
from pathlib import Path

from model.config import MultiwayConfig
from pretrain.config.pretraining import ObjectiveConfig, PretrainConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.recipes.beit3 import beit3_base


def vlmo_base() -> PretrainConfig:
    """VLMo base: 12 layers of 768, vision-language experts in the top two.

    Command: sbatch --nodes 4 slurm/pretrain.sbatch vlmo_base
    From unilm/vlmo: 200k steps of 1024 pairs, peak learning rate 2e-4, weight decay 0.01, 40 tokens per caption, 15 %
    of them hidden, stochastic depth 0.1. Our choice: 1024 images and 1024 texts beside the pairs, and the warmup of
    2500 steps, which is that of VLMo's text stage.
    """
    base = beit3_base()
    return replace(
        base,
        model=MultiwayConfig(num_vl_layers=2, drop_path_rate=0.1),
        data=replace(base.data, caption_length=40),
        run_dir=Path("runs/vlmo_base"),
        num_steps=200_000,
        images_per_step=1024,
        pairs_per_step=1024,
        texts_per_step=1024,
        objective=ObjectiveConfig(caption_mask_ratio=0.15, whole_image_share=0.5),
        optimizer=OptimizerConfig(peak_lr=2e-4, min_lr=0.0, warmup_steps=2500, weight_decay=0.01),
    )


def vlmo_base_plus() -> PretrainConfig:
    """VLMo base plus: 24 layers of 544, vision-language experts in the top three.

    Command: sbatch --nodes 4 slurm/pretrain.sbatch vlmo_base_plus
    From unilm/vlmo: peak learning rate 1e-4. The rest as vlmo_base.
    """
    base = vlmo_base()
    return replace(
        base,
        model=replace(base.model, dim=544, depth=24, num_heads=16, ffn_dim=2176, num_vl_layers=3),
        run_dir=Path("runs/vlmo_base_plus"),
        optimizer=replace(base.optimizer, peak_lr=1e-4),
    )


def vlmo_large() -> PretrainConfig:
    """VLMo large: 24 layers of 1024, vision-language experts in the top three.

    Command: sbatch --nodes 8 slurm/pretrain.sbatch vlmo_large
    From unilm/vlmo: peak learning rate 5e-5. The rest as vlmo_base.
    """
    base = vlmo_base()
    return replace(
        base,
        model=replace(base.model, dim=1024, depth=24, num_heads=16, ffn_dim=4096, num_vl_layers=3),
        run_dir=Path("runs/vlmo_large"),
        optimizer=replace(base.optimizer, peak_lr=5e-5),
    )
