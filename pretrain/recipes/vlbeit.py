"""VL-BEiT (arXiv 2206.01127): the same objective at VLMo's base size."""

from dataclasses import replace
from pathlib import Path

from model.config import MultiwayConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.recipes.beit3 import beit3_base


def vlbeit_base() -> PretrainConfig:
    """VL-BEiT base: shared attention, vision-language experts in the top two layers; MIM, MLM and MVLM in one stage.

    Command: sbatch --nodes 4 slurm/pretrain.sbatch vlbeit_base
    Published: the three objectives, 40 % of patches block-wise, 50 % of caption tokens. Two layers are those of VLMo
    base, its sibling. Batch sizes, steps and learning rate were not found: using beit3_base's is our choice, and so are
    SubLN and whole images in half of the pairs.
    """
    return replace(
        beit3_base(),
        model=MultiwayConfig(num_vl_layers=2, drop_path_rate=0.1),
        run_dir=Path("runs/vlbeit_base"),
    )
