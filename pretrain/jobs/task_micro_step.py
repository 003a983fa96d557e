"""From a batch of a task to the inputs and targets of one forward of the task's network.

All randomness, masks of captions, mixtures and stochastic depth, is keyed by the seed and by the sample's id, as in
micro_step.py.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data_pipeline.loading.task_batch import TaskBatch
from data_pipeline.samples.tasks import Task
from data_pipeline.texts.tokenizer import TextTokenizer
from model.kernels.backend import choose_backend
from model.kernels.text_masks import mask_texts
from model.multiway import MultiwayInputs
from model.objective import num_masked
from model.stochastic_depth import drop_path_scales
from model.task_inputs import image_inputs, pair_inputs, twin_pair_inputs
from model.task_networks import CaptionTargets
from pretrain.config.finetune import FinetuneConfig
from pretrain.formats.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from pretrain.jobs.mixing import mix
from pretrain.jobs.visual_tokens import network_view


@dataclass(frozen=True, eq=False)
class TaskMicroStep:
    """The arguments of one forward of a task's network, and all that its loss needs."""

    task: Task
    inputs: MultiwayInputs
    drop_path_scale: Tensor | None
    targets: Tensor | None = None
    """(B, answers) scores of vqa; (B,) int64 classes of nlvr2 and classify, or (B, classes) probabilities of mixed
    images; None for captions."""
    words: CaptionTargets | None = None
    """The masked words of captions."""
    smoothing: float = 0.0
    """Label smoothing of classes and of masked words."""


@torch.no_grad()
def make_task_micro_step(
    config: FinetuneConfig, batch: TaskBatch, text_tokenizer: TextTokenizer | None
) -> TaskMicroStep:
    """Return the inputs and targets of a part of a batch; text_tokenizer: None for classify alone."""
    images, patch_size = task_view(config, batch.images), config.model.patch_size
    scale = drop_path_scale(config, batch.sample_ids)
    if config.task == "classify":
        return _of_classes(config, batch, images, scale)
    ids, padding, lengths = batch.text_ids, batch.text_padding, batch.text_lengths
    assert ids is not None and padding is not None
    if config.task == "nlvr2":
        assert batch.second_images is not None
        second = task_view(config, batch.second_images)
        inputs = twin_pair_inputs(images, second, ids, padding, patch_size, lengths)
        return TaskMicroStep(config.task, inputs, scale, batch.targets)
    inputs = pair_inputs(images, ids, padding, patch_size, lengths, causal=config.task == "caption")
    if config.task == "vqa":
        return TaskMicroStep(config.task, inputs, scale, batch.targets)
    assert text_tokenizer is not None
    masked = mask_texts(
        config.seed,
        batch.sample_ids,
        ids,
        padding,
        config.mask_ratio,
        text_tokenizer.mask_id,
        text_tokenizer.piece_ids,
        choose_backend(config.kernels, ids.device),
    )
    words = CaptionTargets(masked.positions, masked.labels, num_masked(lengths, config.mask_ratio))
    inputs = replace(inputs, caption_ids=masked.ids)
    return TaskMicroStep(config.task, inputs, scale, words=words, smoothing=config.label_smoothing)


def _of_classes(config: FinetuneConfig, batch: TaskBatch, images: Tensor, scale: Tensor | None) -> TaskMicroStep:
    targets = batch.targets
    assert targets is not None and config.num_classes is not None
    if config.mixing.is_on:
        images, targets = mix(images, targets, config.num_classes, config.mixing, config.seed, batch.sample_ids)
    inputs = image_inputs(images, config.model.patch_size)
    return TaskMicroStep(config.task, inputs, scale, targets, smoothing=config.label_smoothing)


def task_view(config: FinetuneConfig, images: Tensor) -> Tensor:
    """Return (B, 3, S, S) uint8 images as the network of a task sees them, (B, 3, size, size), in the precision of the
    run: normalised as Microsoft does for classes of images, and in [-1, 1] for all other tasks."""
    view = network_view(images, config.model.image_size)
    if config.task == "classify":
        channels = zip(((view + 1) / 2).unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True)
        view = torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)
    return view.to(config.dtype)


def drop_path_scale(config: FinetuneConfig, sample_ids: Tensor) -> Tensor | None:
    """Return the factors of stochastic depth in the order of the inputs; None without it.

    The two pairs of a sample of nlvr2 are dropped independently, as in Microsoft's code.
    """
    if config.model.drop_path_rate == 0:
        return None
    if config.task == "nlvr2":
        sample_ids = torch.cat([2 * sample_ids, 2 * sample_ids + 1])
    return drop_path_scales(config.seed, sample_ids, config.model.depth, config.model.drop_path_rate)
