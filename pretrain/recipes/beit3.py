"""BEiT-3: the giant of the paper (arXiv 2208.10442); base and large, in the released and in the paper's architecture.

All of them take patches of image-only samples and of pairs from one masking, 15 % of the tokens of texts and 50 % of
those of captions. The images of half of the pairs stay whole, which is our choice: the paper masks all, and small
networks trained that way use whole images badly; large ones were not measured (docs/whole_images.md). The paper's
setting is `--objective.whole-image-share 0`.

Expects data/images, data/pairs, data/texts, data/beit3.spm and data/visual_tokenizer.pt.
"""

from dataclasses import replace
from pathlib import Path

from data_pipeline.loading.config import DataConfig
from model.config import MultiwayConfig
from pretrain.config.pretraining import ObjectiveConfig, PretrainConfig
from pretrain.config.run_config import OptimizerConfig


def beit3_giant() -> PretrainConfig:
    """BEiT-3 of the paper: 1.9B parameters, shared attention, vision-language experts in the top three layers.

    Command: sbatch --nodes 16 slurm/pretrain.sbatch beit3_giant
    Sizes: table 2. Steps, batches, AdamW, schedule, clipping, stochastic depth, colour jitter: table 11. Mask ratios:
    section 2.2. Not published, our choice: min_lr (BEiT's), loss weights (1), text_length 512, caption_length 64 (the
    finetuning code's), crops (BEiT v2's), precision, and 40 % hidden patches, 102 of 256. Nothing is recomputed: on 128
    GPUs `pretrain.plan` predicts 35 GB per rank (on fewer, use `--activation-checkpointing.mode full`). The paper
    masks the image of every pair; here about half of the pairs keep theirs whole (see the top of this file). ZeRO-1 is
    predicted to be the fastest stage that fits (docs/speed_and_memory.md).
    """
    data = Path("data")
    return PretrainConfig(
        model=MultiwayConfig(
            dim=1408,
            depth=40,
            num_heads=16,
            ffn_dim=6144,
            num_vl_layers=3,
            patch_size=14,
            drop_path_rate=0.1,
        ),
        data=DataConfig(
            images=(str(data / "images"),),
            pairs=(str(data / "pairs"),),
            texts=(str(data / "texts"),),
            text_tokenizer=data / "beit3.spm",
        ),
        visual_tokenizer=data / "visual_tokenizer.pt",
        run_dir=Path("runs/beit3_giant"),
        num_steps=1_000_000,
        images_per_step=2048,
        pairs_per_step=2048,
        texts_per_step=2048,
        objective=ObjectiveConfig(image_mask_ratio=0.4, whole_image_share=0.5),
        optimizer=OptimizerConfig(),
        deepspeed_config=Path("ds_configs/zero1.json"),
    )


def beit3_base() -> PretrainConfig:
    """The released base, 276M with heads: decoupled attention, no vision-language experts.

    Command: sbatch --nodes 4 slurm/pretrain.sbatch beit3_base
    To start from the released weights, convert them (README) and add --initial-weights FOLDER.
    Sizes: unilm/beit3. Its pretraining was never published: the giant's schedule is our choice, and 75 hidden patches
    of 196 are BEiT's.
    """
    giant = beit3_giant()
    return replace(
        giant,
        model=MultiwayConfig(attention="decoupled", drop_path_rate=0.1),
        run_dir=Path("runs/beit3_base"),
        objective=ObjectiveConfig(whole_image_share=0.5),
    )


def beit3_large() -> PretrainConfig:
    """The released large, 746M with heads: decoupled attention, no vision-language experts.

    Command: sbatch --nodes 8 slurm/pretrain.sbatch beit3_large
    Sizes: unilm/beit3. The rest as beit3_base.
    """
    base = beit3_base()
    return replace(
        base,
        model=_large(base.model),
        run_dir=Path("runs/beit3_large"),
    )


def beit3_base_shared() -> PretrainConfig:
    """Base as the paper would build it: shared attention, vision-language experts in the top three layers.

    Command: sbatch --nodes 4 slurm/pretrain.sbatch beit3_base_shared
    Never published at this size: three layers are the giant's. The rest as beit3_base.
    """
    base = beit3_base()
    return replace(base, model=_shared(base.model), run_dir=Path("runs/beit3_base_shared"))


def beit3_large_shared() -> PretrainConfig:
    """Large as the paper would build it: shared attention, vision-language experts in the top three layers.

    Command: sbatch --nodes 8 slurm/pretrain.sbatch beit3_large_shared
    Never published at this size: three layers are the giant's. The rest as beit3_base.
    """
    large = beit3_large()
    return replace(large, model=_shared(large.model), run_dir=Path("runs/beit3_large_shared"))


def _large(base: MultiwayConfig) -> MultiwayConfig:
    return replace(base, dim=1024, depth=24, num_heads=16, ffn_dim=4096)


def _shared(decoupled: MultiwayConfig) -> MultiwayConfig:
    return replace(decoupled, attention="shared", num_vl_layers=3)
