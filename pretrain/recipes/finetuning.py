"""Finetuning for the tasks of Microsoft's unilm/beit3 (get_started/*.md) and of the paper's giant (arXiv 2208.10442,
tables 12 and 13), with their published hyperparameters.

Published for base and large: batches, peak learning rates, layer decay, epochs, stochastic depth, weight decay, sizes
of images, RandAugment, mask ratio, label smoothing, the share of worst words. Defaults of Microsoft's code: eps 1e-8,
betas 0.9 and 0.999, min_lr 1e-6, no clipping, crops of at least half of an image, flips.

Our choice: precision, and steps instead of epochs, of the whole training split as it is counted below. Microsoft leaves
out the samples that it cannot use and the incomplete batch at the end of an epoch.

Expects the shards that data_pipeline.write_shards makes of a task (docs/data.md), data/beit3.spm, and the weights to
start from: --initial-weights takes a run, a checkpoint, a folder of pretrain.convert, or a file of Microsoft's.
"""

from dataclasses import replace
from pathlib import Path

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.samples.tasks import Task
from model.config import MultiwayConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.mixing import MixingConfig
from pretrain.recipes.microsoft import NUM_COCO_CAPTIONS, base, giant, large, microsofts_optimizer

NUM_VQA_QUESTIONS = 443_757 + 214_354
"""Questions of VQAv2's training and validation splits, of which Microsoft keeps 1,000 validation images for tests."""
NUM_NLVR2_SENTENCES = 86_373
NUM_IMAGENET_IMAGES = 1_281_167
NUM_ANSWERS = 3129
"""Answers of VQAv2 that Microsoft's networks choose from."""


def vqa_base_480() -> FinetuneConfig:
    """VQAv2 with the released base at 480 px, 228M: published 77.65 on test-dev, 78.46 from the in-domain weights.

    Command: deepspeed --module pretrain.finetune vqa_base_480 --initial-weights beit3_base_patch16_224.pth
    The head's learning rate is 20 times that of the rest.
    """
    return _vqa(base(480, 0.1), "vqa_base_480", peak_lr=3e-5)


def vqa_large_480() -> FinetuneConfig:
    """VQAv2 with the released large at 480 px, 683M: published 81.85 on test-dev, 82.53 from the in-domain weights.

    Command: deepspeed --module pretrain.finetune vqa_large_480 --initial-weights beit3_large_patch16_224.pth
    The head's learning rate is 20 times that of the rest.
    """
    return _vqa(large(480, 0.15), "vqa_large_480", peak_lr=2e-5)


def vqa_giant_756() -> FinetuneConfig:
    """VQAv2 with the paper's giant at 756 px: published 84.19 on test-dev.

    Command: deepspeed --module pretrain.finetune vqa_giant_756 --initial-weights runs/beit3_giant
    Published: table 12. RandAugment, betas and the factor of the head are those of the base, our choice.
    """
    return _vqa(giant(756, 0.4), "vqa_giant_756", peak_lr=1e-5)


def nlvr2_base() -> FinetuneConfig:
    """NLVR2 with the released base, 226M: published 83.6 on dev and 84.4 on test-P.

    Command: deepspeed --module pretrain.finetune nlvr2_base --initial-weights beit3_base_patch16_224.pth
    The in-domain weights take --optimizer.peak-lr 5e-4.
    """
    return _nlvr2(base(224, 0.2), "nlvr2_base", peak_lr=7e-4, layer_decay=0.65)


def nlvr2_large() -> FinetuneConfig:
    """NLVR2 with the released large, 681M: published 88.5 on dev and 89.4 on test-P.

    Command: deepspeed --module pretrain.finetune nlvr2_large --initial-weights beit3_large_patch16_224.pth
    The in-domain weights take --optimizer.peak-lr 1e-4.
    """
    return _nlvr2(large(224, 0.2), "nlvr2_large", peak_lr=3e-4, layer_decay=0.85)


def nlvr2_giant() -> FinetuneConfig:
    """NLVR2 with the paper's giant: published 91.51 on dev and 92.58 on test-P.

    Command: deepspeed --module pretrain.finetune nlvr2_giant --initial-weights runs/beit3_giant
    Published: table 12.
    """
    return _nlvr2(giant(224, 0.4), "nlvr2_giant", peak_lr=1e-3, layer_decay=0.8, weight_decay=0.05)


def caption_base_480() -> FinetuneConfig:
    """Captions of COCO with the released base at 480 px, 271M: published CIDEr 133.6, 135.0 from the in-domain weights.

    Command: deepspeed --module pretrain.finetune caption_base_480 --initial-weights beit3_base_patch16_224.pth
    """
    return _caption(base(480, 0.1), "caption_base_480", peak_lr=4e-5)


def caption_large_480() -> FinetuneConfig:
    """Captions of COCO with the released large at 480 px, 739M: published CIDEr 143.2 from the in-domain weights.

    Command: deepspeed --module pretrain.finetune caption_large_480 --initial-weights beit3_large_patch16_224.pth
    """
    return _caption(large(480, 0.1), "caption_large_480", peak_lr=8e-6)


def nocaps_base_480() -> FinetuneConfig:
    """Captions of COCO for NoCaps, with the released base at 480 px: published CIDEr on val 104.4, in-domain 105.6.

    Command: deepspeed --module pretrain.finetune nocaps_base_480 --initial-weights beit3_base_patch16_224.pth
    """
    return _caption(base(480, 0.1), "nocaps_base_480", peak_lr=1e-5)


def nocaps_large_480() -> FinetuneConfig:
    """Captions of COCO for NoCaps, with the released large at 480 px: published CIDEr on val 120.2, in-domain weights.

    Command: deepspeed --module pretrain.finetune nocaps_large_480 --initial-weights beit3_large_patch16_224.pth
    """
    return _caption(large(480, 0.1), "nocaps_large_480", peak_lr=8e-6)


def caption_giant_392() -> FinetuneConfig:
    """Captions of COCO with the paper's giant at 392 px: published CIDEr 147.6.

    Command: deepspeed --module pretrain.finetune caption_giant_392 --initial-weights runs/beit3_giant
    Published: table 13, 16k steps. RandAugment and the share of worst words are those of the base, our choice.
    """
    base = _caption(giant(392, 0.3), "caption_giant_392", peak_lr=8e-6)
    optimizer = replace(base.optimizer, weight_decay=0.01, warmup_steps=1600)
    return replace(base, num_steps=16_000, mask_ratio=0.6, optimizer=optimizer)


def classify_base() -> FinetuneConfig:
    """ImageNet-1K with the released base: published top-1 85.4.

    Command: deepspeed --module pretrain.finetune classify_base --initial-weights beit3_base_patch16_224.pth
    Augmentation as Microsoft's code has timm make it: crops of at least 8 % of an image, rand-m9-mstd0.5-inc1, random
    erasing.
    """
    return _classify(base(224, 0.15), "classify_base", peak_lr=7e-4, layer_decay=0.65)


def classify_large() -> FinetuneConfig:
    """ImageNet-1K with the released large: published top-1 87.6.

    Command: deepspeed --module pretrain.finetune classify_large --initial-weights beit3_large_patch16_224.pth
    The augmentation is that of classify_base.
    """
    return _classify(large(224, 0.25), "classify_large", peak_lr=2e-4, layer_decay=0.8)


def _vqa(model: MultiwayConfig, name: str, peak_lr: float) -> FinetuneConfig:
    config = _published(
        model, "vqa", name, "vqa", 128, NUM_VQA_QUESTIONS, epochs=10, warmup_epochs=1, peak_lr=peak_lr,
        weight_decay=0.01,
    )  # fmt: skip
    return replace(
        config,
        num_classes=NUM_ANSWERS,
        head_lr_factor=20.0,
        data=replace(config.data, rand_augment=True),
        optimizer=replace(config.optimizer, beta2=0.98),
    )


def _nlvr2(
    model: MultiwayConfig, name: str, peak_lr: float, layer_decay: float, weight_decay: float = 0.2
) -> FinetuneConfig:
    config = _published(
        model, "nlvr2", name, "nlvr2", 256, NUM_NLVR2_SENTENCES, epochs=20, warmup_epochs=5, peak_lr=peak_lr,
        weight_decay=weight_decay,
    )  # fmt: skip
    return replace(config, layer_decay=layer_decay)


def _caption(model: MultiwayConfig, name: str, peak_lr: float) -> FinetuneConfig:
    config = _published(
        model, "caption", name, "captions", 256, NUM_COCO_CAPTIONS, epochs=10, warmup_epochs=1, peak_lr=peak_lr
    )
    return replace(
        config,
        data=replace(config.data, rand_augment=True, text_length=32),
        mask_ratio=0.7,
        label_smoothing=0.1,
        drop_worst_share=0.2,
        drop_worst_after=12_000,
    )


def _classify(model: MultiwayConfig, name: str, peak_lr: float, layer_decay: float) -> FinetuneConfig:
    config = _published(
        model, "classify", name, "classes", 1024, NUM_IMAGENET_IMAGES, epochs=50, warmup_epochs=5, peak_lr=peak_lr
    )
    return replace(
        config,
        num_classes=1000,
        layer_decay=layer_decay,
        # beside such operations timm leaves out the jitter of colors
        data=replace(config.data, text_tokenizer=None, min_crop_scale=0.08, color_jitter=0.0, rand_augment=True),
        label_smoothing=0.1,
        mixing=MixingConfig(mixup=0.8, cutmix=1.0),
    )


def _published(
    model: MultiwayConfig,
    task: Task,
    name: str,
    folder: str,
    samples_per_step: int,
    num_samples: int,
    epochs: int,
    warmup_epochs: int,
    peak_lr: float,
    weight_decay: float = 0.05,
) -> FinetuneConfig:
    """Return the settings that all published recipes share; num_samples: of an epoch."""
    data, steps_per_epoch = Path("data"), num_samples // samples_per_step
    num_classes = {"vqa": NUM_ANSWERS, "classify": 1000}.get(task)
    return FinetuneConfig(
        model=model,
        data=TaskDataConfig(
            shards=(str(data / folder),),
            held_out=str(data / f"held_out_{folder}"),
            text_tokenizer=data / "beit3.spm",
        ),
        task=task,
        num_classes=num_classes,
        run_dir=Path("runs") / name,
        num_steps=epochs * steps_per_epoch,
        task_samples_per_step=samples_per_step,
        optimizer=microsofts_optimizer(peak_lr, warmup_epochs * steps_per_epoch, weight_decay),
        deepspeed_config=Path("ds_configs/zero1.json"),
        save_every_steps=1000,
    )
