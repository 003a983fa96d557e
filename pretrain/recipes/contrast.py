"""The contrastive stage: dual encoders from pretrained networks, the giant as in the paper (arXiv 2208.10442, appendix
A, "intermediate contrastive tuning").

Published for the giant: 5 epochs over the 21M pairs of pretraining in batches of 16k, peak learning rate 3e-5, one
epoch of warmup, 224 px, weight decay 0.05, stochastic depth 0.3, layer decay 0.95, betas 0.9 and 0.999. How the
released base and large `itc` files were trained was never published. Our choice for all sizes: eps 1e-8 and min_lr 1e-6
(defaults of Microsoft's finetuning code), crops of at least half of an image and flips (its transform for pairs), no
colour jitter, texts of 64 tokens (its default), gradients clipped at 3.0 (pretraining's).

Expects data/pairs and data/beit3.spm, and the weights to start from: --initial-weights takes a run, a checkpoint, a
folder of pretrain.convert, or a file of Microsoft's.
"""

from dataclasses import replace
from pathlib import Path

from pretrain.config.contrast import ContrastConfig
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.recipes.beit3 import beit3_base, beit3_giant, beit3_large
from pretrain.recipes.small import demo, laptop

NUM_PAIRS = 21_000_000
"""Pairs of the paper's table 3; its appendix trains on them for NUM_EPOCHS."""
NUM_EPOCHS = 5
PAIRS_PER_STEP = 16_384
"""The paper's 16k, as a power of two."""
STEPS_PER_EPOCH = round(NUM_PAIRS / PAIRS_PER_STEP)


def contrast_giant() -> ContrastConfig:
    """The paper's giant as a dual encoder: 5 epochs over 21M pairs in batches of 16k.

    Command: deepspeed --module pretrain.contrast contrast_giant --initial-weights runs/beit3_giant
    Published: see the top of this file. With --initial-weights alone the vision-language experts stay as they are: no
    image meets a text inside a dual encoder.
    """
    return _published(beit3_giant(), "contrast_giant", peak_lr=3e-5, layer_decay=0.95, drop_path_rate=0.3)


def contrast_base() -> ContrastConfig:
    """The released base as a dual encoder, 222M.

    Command: deepspeed --module pretrain.contrast contrast_base --initial-weights runs/beit3_base
    Epochs and batch are the giant's. Our choice: peak learning rate 2e-4, layer decay 0.65 and stochastic depth 0.2,
    with which Microsoft finetunes the base for retrieval on COCO in batches of 3072.
    """
    return _published(beit3_base(), "contrast_base", peak_lr=2e-4, layer_decay=0.65, drop_path_rate=0.2)


def contrast_large() -> ContrastConfig:
    """The released large as a dual encoder, 674M.

    Command: deepspeed --module pretrain.contrast contrast_large --initial-weights runs/beit3_large
    Epochs and batch are the giant's. Our choice: peak learning rate 5e-5, layer decay 0.85 and stochastic depth 0.2,
    with which Microsoft finetunes the large for retrieval on COCO in batches of 3072.
    """
    return _published(beit3_large(), "contrast_large", peak_lr=5e-5, layer_decay=0.85, drop_path_rate=0.2)


def contrast_laptop() -> ContrastConfig:
    """The recipe laptop's network as a dual encoder, on two CPU ranks in a few minutes.

    Command: deepspeed --num_accelerators 2 --module pretrain.contrast contrast_laptop
    Expects: the data of the recipe laptop, and its run in runs/laptop; to start elsewhere: --initial-weights. Sizes and
    hyperparameters are our choice, for a few thousand pairs.
    """
    pretrained = laptop()
    return _small(
        pretrained,
        run_dir=Path("runs/contrast_laptop"),
        num_steps=400,
        evaluation=replace(pretrained.evaluation, images=None, every_steps=100, num_samples=256),
    )


def contrast_demo() -> ContrastConfig:
    """The demo's network as a dual encoder, on two CPU ranks in about a minute.

    Command: deepspeed --num_accelerators 2 --module pretrain.contrast contrast_demo
    Expects: runs/demo and its data, as make demo leaves them. Sizes and hyperparameters are our choice.
    """
    pretrained = demo()
    return _small(
        pretrained,
        run_dir=Path("runs/contrast_demo"),
        num_steps=150,
        evaluation=replace(pretrained.evaluation, images=None, texts=None, every_steps=50, num_samples=96),
    )


def _published(
    pretrained: PretrainConfig, name: str, peak_lr: float, layer_decay: float, drop_path_rate: float
) -> ContrastConfig:
    """Return the paper's contrastive stage for a network of pretraining."""
    data = pretrained.data
    return ContrastConfig(
        model=replace(pretrained.model, drop_path_rate=drop_path_rate),
        data=replace(
            data, images=(), texts=(), caption_length=64, text_length=64, min_crop_scale=0.5, color_jitter=0.0
        ),
        run_dir=Path("runs") / name,
        num_steps=NUM_EPOCHS * STEPS_PER_EPOCH,
        pairs_per_step=PAIRS_PER_STEP,
        layer_decay=layer_decay,
        optimizer=OptimizerConfig(
            peak_lr=peak_lr,
            min_lr=1e-6,
            warmup_steps=STEPS_PER_EPOCH,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.05,
            gradient_clip=3.0,
        ),
        deepspeed_config=pretrained.deepspeed_config,
        save_every_steps=500,
    )


def _small(pretrained: PretrainConfig, run_dir: Path, num_steps: int, evaluation: EvaluationConfig) -> ContrastConfig:
    """Return a contrastive stage of minutes, which starts from the run of a small recipe."""
    return ContrastConfig(
        model=replace(pretrained.model, drop_path_rate=0.1),
        data=replace(pretrained.data, images=(), texts=()),
        initial_weights=pretrained.run_dir,
        run_dir=run_dir,
        num_steps=num_steps,
        pairs_per_step=64,
        layer_decay=0.9,
        optimizer=OptimizerConfig(
            peak_lr=1e-3, min_lr=1e-5, warmup_steps=num_steps // 10, beta2=0.98, eps=1e-8, gradient_clip=1.0
        ),
        precision=pretrained.precision,
        deepspeed_config=pretrained.deepspeed_config,
        save_every_steps=pretrained.save_every_steps,
        evaluation=evaluation,
    )
