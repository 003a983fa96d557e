"""Retrieval: the contrastive stage on the captions of COCO or Flickr30k, or on the class names of labelled images, with
the hyperparameters of Microsoft's unilm/beit3 (get_started_for_retrieval.md) and of the paper's giant (arXiv
2208.10442, tables 14 and 17).

Published: batches of 3072 (the giant's 3k), peak learning rates, layer decay, epochs, stochastic depth, weight decay,
sizes of images. Defaults of Microsoft's code: eps 1e-8, betas 0.9 and 0.999, min_lr 1e-6, no clipping, crops of at
least half of an image, flips, texts of 64 tokens. Our choice: precision, and steps of the whole training split as it is
counted below; of an image with several captions a step takes one.

Expects shards of kind caption or pair in data/captions or data/flickr30k, data/beit3.spm, and the weights to start
from: a dual encoder of the contrastive stage, or one of Microsoft's `itc` files, such as
beit3_base_itc_patch16_224.pth, from which the published figures are.

Classification as retrieval over class names was published for the giant on ImageNet: batches of 2k, 15 epochs with 3 of
warmup, 3e-5, layer decay 0.95, stochastic depth 0.4, 336 px, after 50 epochs on ImageNet-21K, which are left out here.
Our choice: base and large, templates of texts, and that images are not compared with each other's texts within a class.
It expects shards of kind label in data/classes and data/held_out_classes, and data/class_names.json, which names the
WordNet ids of ImageNet's folders: {"n01440764": "tench", ...}.
"""

from dataclasses import replace
from pathlib import Path

from data_pipeline.loading.config import DataConfig
from model.config import MultiwayConfig
from pretrain.config.contrast import ContrastConfig
from pretrain.config.evaluation import EvaluationConfig
from pretrain.recipes.contrast import contrast_laptop
from pretrain.recipes.microsoft import NUM_COCO_CAPTIONS, base, giant, large, microsofts_optimizer

PAIRS_PER_STEP = 3072
NUM_IMAGENET_IMAGES = 1_281_167
IMAGENET_PAIRS_PER_STEP = 2048
"""The paper's 2k, as a power of two."""
NUM_FLICKR30K_CAPTIONS = 145_000
"""Five captions for each of 29,000 images, Karpathy's split train."""


def retrieval_coco_base_384() -> ContrastConfig:
    """COCO with the released base at 384 px, 222M: published recall at 1 of 61.4 for images and 79.1 for texts.

    Command: deepspeed --module pretrain.contrast retrieval_coco_base_384 --initial-weights runs/contrast_base
    """
    return _coco(base(384, 0.2), "retrieval_coco_base_384", 2e-4, layer_decay=0.65)


def retrieval_coco_large_384() -> ContrastConfig:
    """COCO with the released large at 384 px, 675M: published recall at 1 of 63.4 for images and 82.1 for texts.

    Command: deepspeed --module pretrain.contrast retrieval_coco_large_384 --initial-weights runs/contrast_large
    """
    return _coco(large(384, 0.2), "retrieval_coco_large_384", 5e-5, layer_decay=0.85)


def retrieval_coco_giant_420() -> ContrastConfig:
    """COCO with the paper's giant at 420 px: published recall at 1 of 67.2 for images and 84.8 for texts.

    Command: deepspeed --module pretrain.contrast retrieval_coco_giant_420 --initial-weights runs/contrast_giant
    Published: table 14.
    """
    return _coco(giant(420, 0.3), "retrieval_coco_giant_420", 1e-5, layer_decay=0.95)


def retrieval_flickr30k_base_384() -> ContrastConfig:
    """Flickr30k with the released base at 384 px: published recall at 1 of 86.2 for images and 96.3 for texts.

    Command: deepspeed --module pretrain.contrast retrieval_flickr30k_base_384 --initial-weights runs/contrast_base
    """
    return _flickr30k(base(384, 0.2), "retrieval_flickr30k_base_384", 1e-4, layer_decay=0.65)


def retrieval_flickr30k_large_384() -> ContrastConfig:
    """Flickr30k with the released large at 384 px: published recall at 1 of 88.1 for images and 97.2 for texts.

    Command: deepspeed --module pretrain.contrast retrieval_flickr30k_large_384 --initial-weights runs/contrast_large
    """
    return _flickr30k(large(384, 0.2), "retrieval_flickr30k_large_384", 5e-5, layer_decay=0.85)


def retrieval_flickr30k_giant_420() -> ContrastConfig:
    """Flickr30k with the paper's giant at 420 px: published recall at 1 of 90.3 for images and 98.0 for texts.

    Command: deepspeed --module pretrain.contrast retrieval_flickr30k_giant_420 --initial-weights runs/contrast_giant
    Published: table 14.
    """
    return _flickr30k(giant(420, 0.3), "retrieval_flickr30k_giant_420", 1e-5, layer_decay=0.95)


def retrieval_imagenet_base_224() -> ContrastConfig:
    """ImageNet's class names with the released base; nothing was published for it.

    Command: deepspeed --module pretrain.contrast retrieval_imagenet_base_224 --initial-weights runs/contrast_base
    Peak learning rate, layer decay and stochastic depth are those of retrieval on Flickr30k, our choice.
    """
    return _imagenet(base(224, 0.2), "retrieval_imagenet_base_224", 1e-4, layer_decay=0.65)


def retrieval_imagenet_large_224() -> ContrastConfig:
    """ImageNet's class names with the released large, as retrieval_imagenet_base_224.

    Command: deepspeed --module pretrain.contrast retrieval_imagenet_large_224 --initial-weights runs/contrast_large
    """
    return _imagenet(large(224, 0.2), "retrieval_imagenet_large_224", 5e-5, layer_decay=0.85)


def retrieval_imagenet_giant_336() -> ContrastConfig:
    """ImageNet's class names with the paper's giant at 336 px: published top-1 89.6, after ImageNet-21K.

    Command: deepspeed --module pretrain.contrast retrieval_imagenet_giant_336 --initial-weights runs/contrast_giant
    Published: table 17.
    """
    return _imagenet(giant(336, 0.4), "retrieval_imagenet_giant_336", 3e-5, layer_decay=0.95)


def retrieval_classes_laptop() -> ContrastConfig:
    """Class names of your own images, from the network of the recipe laptop, on two CPU ranks in minutes.

    Command: deepspeed --num_accelerators 2 --module pretrain.contrast retrieval_classes_laptop
    Expects: data/laptop_classes and data/held_out_laptop_classes, the shards of classify_laptop, data/tokenizer.spm,
    and a run in runs/laptop; to start elsewhere: --initial-weights. The rest is as in contrast_laptop.
    """
    config = contrast_laptop()
    return replace(
        config,
        data=replace(config.data, pairs=("data/laptop_classes",)),
        run_dir=Path("runs/retrieval_classes_laptop"),
        equal_texts="ignored",
        evaluation=EvaluationConfig(
            labelled="data/held_out_laptop_classes", every_steps=100, num_labelled=256, parts=("zero_shot",)
        ),
    )


def _coco(model: MultiwayConfig, name: str, peak_lr: float, layer_decay: float) -> ContrastConfig:
    return _published(model, name, "captions", NUM_COCO_CAPTIONS, 15, 3, peak_lr, layer_decay)


def _flickr30k(model: MultiwayConfig, name: str, peak_lr: float, layer_decay: float) -> ContrastConfig:
    return _published(model, name, "flickr30k", NUM_FLICKR30K_CAPTIONS, 20, 5, peak_lr, layer_decay)


def _imagenet(model: MultiwayConfig, name: str, peak_lr: float, layer_decay: float) -> ContrastConfig:
    config = _published(
        model, name, "classes", NUM_IMAGENET_IMAGES, 15, 3, peak_lr, layer_decay, IMAGENET_PAIRS_PER_STEP
    )
    return replace(
        config,
        data=replace(config.data, class_names=Path("data/class_names.json")),
        equal_texts="ignored",
        evaluation=EvaluationConfig(
            labelled="data/held_out_classes", every_steps=config.evaluation.every_steps, parts=("zero_shot",)
        ),
    )


def _published(
    model: MultiwayConfig,
    name: str,
    folder: str,
    num_captions: int,
    epochs: int,
    warmup_epochs: int,
    peak_lr: float,
    layer_decay: float,
    pairs_per_step: int = PAIRS_PER_STEP,
) -> ContrastConfig:
    """Return the settings that all published recipes share; num_captions: of an epoch."""
    data, steps_per_epoch = Path("data"), num_captions // pairs_per_step
    return ContrastConfig(
        model=model,
        data=DataConfig(
            pairs=(str(data / folder),),
            text_tokenizer=data / "beit3.spm",
            caption_length=64,
            text_length=64,
            min_crop_scale=0.5,
            color_jitter=0.0,
        ),
        run_dir=Path("runs") / name,
        num_steps=epochs * steps_per_epoch,
        pairs_per_step=pairs_per_step,
        layer_decay=layer_decay,
        optimizer=microsofts_optimizer(peak_lr, warmup_epochs * steps_per_epoch),
        deepspeed_config=Path("ds_configs/zero1.json"),
        save_every_steps=steps_per_epoch,
        evaluation=EvaluationConfig(pairs=str(data / f"held_out_{folder}"), every_steps=steps_per_epoch),
    )
