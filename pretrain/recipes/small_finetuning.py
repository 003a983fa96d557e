"""Finetuning on a laptop: easy-VQA, and a recipe per task for your own shards."""

from dataclasses import replace
from pathlib import Path

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.samples.tasks import Task
from model.config import MultiwayConfig
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.recipes.small import laptop

NUM_EASY_VQA_QUESTIONS = 38_575
"""Questions on the training images of easy-VQA."""


def easy_vqa() -> FinetuneConfig:
    """Questions on drawn shapes, from the package easy-vqa: 13 answers, 38,575 questions on 4,000 images of 64 px.

    Command: deepspeed --num_accelerators 2 --module pretrain.finetune easy_vqa
    Expects: its training and test questions as shards in data/easy_vqa and data/held_out_easy_vqa, data/easy_vqa.spm,
    and a network that was pretrained on its images and questions in runs/easy_vqa_pretraining.
    tests/benchmarks/study_easy_vqa.py makes them all, and runs this recipe. Images are read at 48 px in patches of 8,
    in which shapes are learned at the least cost. Sizes and hyperparameters are our choice.
    """
    steps_per_epoch = NUM_EASY_VQA_QUESTIONS // 128
    config = _small(
        "vqa",
        "easy_vqa",
        replace(
            laptop().model,
            dim=96,
            depth=3,
            num_heads=3,
            ffn_dim=288,
            image_size=48,
            patch_size=8,
            vocab_size=144,
            max_text_length=32,
            init_std=0.135,
            embed_init_std=0.02,
        ),
        tokenizer=Path("data/easy_vqa.spm"),
        text_length=16,
        num_steps=8 * steps_per_epoch,
        num_classes=13,
    )
    return replace(
        config,
        model=replace(config.model, drop_path_rate=0.0),  # for so few steps
        task_samples_per_step=128,
        initial_weights=Path("runs/easy_vqa_pretraining"),
        data=replace(config.data, min_crop_scale=0.9, horizontal_flip=True),  # no question asks for a side
        layer_decay=1.0,
        evaluation=replace(config.evaluation, every_steps=steps_per_epoch, num_samples=10_000, chunk_size=128),
    )


def vqa_laptop() -> FinetuneConfig:
    """Answers to questions on your own images, from the network of the recipe laptop, on two CPU ranks in minutes.

    Command: deepspeed --num_accelerators 2 --module pretrain.finetune vqa_laptop --num-classes 10
    Expects: data/laptop_vqa, data/held_out_laptop_vqa and data/tokenizer.spm; --num-classes: the number of answers in
    data/laptop_vqa/answer2label.txt. Sizes and hyperparameters are our choice, as in all recipes *_laptop.
    """
    return _laptop("vqa", "laptop_vqa", num_classes=10)


def nlvr2_laptop() -> FinetuneConfig:
    """Truth of sentences on two images of your own, as vqa_laptop.

    Command: deepspeed --num_accelerators 2 --module pretrain.finetune nlvr2_laptop
    Expects: data/laptop_nlvr2, data/held_out_laptop_nlvr2 and data/tokenizer.spm. To compare two pictures is far from
    what pretraining has learned, so the rate is higher than that of vqa_laptop; Microsoft's is too, 7e-4 against 3e-5.
    """
    config = _laptop("nlvr2", "laptop_nlvr2")
    return replace(config, optimizer=replace(config.optimizer, peak_lr=5e-4), head_lr_factor=10.0)


def caption_laptop() -> FinetuneConfig:
    """Captions of your own images, as vqa_laptop.

    Command: deepspeed --num_accelerators 2 --module pretrain.finetune caption_laptop
    Expects: data/laptop_captions, data/held_out_laptop_captions and data/tokenizer.spm.
    """
    return replace(_laptop("caption", "laptop_captions"), label_smoothing=0.1)


def classify_laptop() -> FinetuneConfig:
    """Classes of your own images, as vqa_laptop.

    Command: deepspeed --num_accelerators 2 --module pretrain.finetune classify_laptop --num-classes 10
    Expects: data/laptop_classes and data/held_out_laptop_classes; --num-classes: the number of classes in
    data/laptop_classes/classes.txt.
    """
    config = _laptop("classify", "laptop_classes", num_classes=10)
    return replace(config, data=replace(config.data, text_tokenizer=None), label_smoothing=0.1)


def _laptop(task: Task, folder: str, num_classes: int | None = None) -> FinetuneConfig:
    """Return the finetuning of the recipe laptop's network on shards of its own."""
    pretrained = laptop()
    data = pretrained.data
    assert data.text_tokenizer is not None
    config = _small(task, folder, pretrained.model, data.text_tokenizer, data.caption_length, 600, num_classes)
    return replace(config, run_dir=Path("runs") / f"{task}_laptop", initial_weights=pretrained.run_dir)


def _small(
    task: Task,
    folder: str,
    model: MultiwayConfig,
    tokenizer: Path,
    text_length: int,
    num_steps: int,
    num_classes: int | None,
) -> FinetuneConfig:
    """Return a finetuning of minutes."""
    pretrained = laptop()
    return FinetuneConfig(
        model=replace(model, drop_path_rate=0.1),
        data=TaskDataConfig(
            shards=(f"data/{folder}",),
            held_out=f"data/held_out_{folder}",
            text_tokenizer=tokenizer,
            text_length=text_length,
            num_lanes=4,
            min_crop_scale=0.8,
            horizontal_flip=False,  # texts may say left and right
            num_workers=0,
        ),
        task=task,
        num_classes=num_classes,
        run_dir=Path("runs") / folder,
        num_steps=num_steps,
        task_samples_per_step=64,
        layer_decay=0.9,
        head_lr_factor=20.0 if task != "caption" else 1.0,  # captions have the head of pretraining
        optimizer=OptimizerConfig(
            # at the rate of pretraining the first steps would undo what it has learned, unless nothing is new
            peak_lr=3e-4 if task != "caption" else 1e-3,
            min_lr=1e-5,
            warmup_steps=num_steps // 10,
            beta2=0.98,
            eps=1e-8,
            weight_decay=0.05,
            gradient_clip=1.0,
        ),
        precision=pretrained.precision,
        deepspeed_config=pretrained.deepspeed_config,
        save_every_steps=300,
        evaluation=EvaluationConfig(every_steps=300, num_samples=256),
    )
