"""Finetuning as a plan sees it: the network of a task on its samples, with texts of the greatest length."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.config import KernelChoice, Use
from model.flops import forward_flops
from model.networks import build_network
from model.objective import num_masked
from model.task_inputs import image_inputs, pair_inputs, twin_pair_inputs
from model.task_networks import CaptionTargets
from pretrain.config.finetune import FinetuneConfig
from pretrain.evaluation.finetuning import MASK_RATIO
from pretrain.evaluation.written_captions import LONGEST
from pretrain.jobs.finetuning import head_flops, task_work
from pretrain.jobs.task_micro_step import TaskMicroStep
from pretrain.jobs.task_steps import label_losses, logits_of, word_losses
from pretrain.planning.live_memory import tensors_in
from pretrain.planning.planned_kind import MicroBatch, PlannedKind


class PlannedFinetuning(PlannedKind[FinetuneConfig]):
    """One task: answers, statements on two images, captions, or classes of images."""

    module = "pretrain.finetune"
    evaluated_data = ("held_out",)

    def with_held_out_data(self, config: FinetuneConfig) -> FinetuneConfig:
        settings = replace(config.evaluation, best=None)
        return replace(config, data=replace(config.data, held_out="held_out"), evaluation=settings)

    def network(self, config: FinetuneConfig, kernels: KernelChoice) -> nn.Module:
        with torch.device("meta"):
            network = build_network(config.model, config.heads, kernels, config.activation_checkpointing)
        return network.to(config.dtype)

    def micro_step(self, config: FinetuneConfig, batch: MicroBatch) -> TaskMicroStep:
        return meta_task_micro_step(config, batch.task_samples)

    def loss(self, network: nn.Module, micro_step: TaskMicroStep) -> Tensor:
        if micro_step.task == "caption":
            return word_losses(network, micro_step).mean()
        return label_losses(logits_of(network, micro_step), micro_step).mean()

    def num_forwards_again(self, config: FinetuneConfig) -> int:
        drops = config.drop_worst_share > 0 and config.drop_worst_after < config.num_steps
        return config.gradient_accumulation_steps - 1 if drops else 0

    def batch_bytes(self, config: FinetuneConfig, batch: MicroBatch) -> int:
        # as read, with those of the next batch, which is copied ahead
        pixels = 2 * batch.task_samples * config.images_per_sample * 3 * config.model.image_size**2
        micro = meta_task_micro_step(config, batch.task_samples)
        words = {} if micro.words is None else vars(micro.words)
        parts = [vars(micro.inputs), words, micro.targets, micro.drop_path_scale]
        return config.gradient_accumulation_steps * (pixels + sum(tensor.nbytes for tensor in tensors_in(parts)))

    def of_the_forward(self, config: FinetuneConfig) -> FinetuneConfig:
        return replace(config, gradient_accumulation_steps=1, task_samples_per_step=2)

    def step_flops(self, config: FinetuneConfig) -> int:
        lengths = (config.data.text_length,) * config.task_samples_per_step if config.has_text else ()
        return task_work(config, config.task_samples_per_step, lengths).flops

    def uses(self, config: FinetuneConfig) -> dict[Use, int]:
        return {"pair": config.data.text_length} if config.has_text else {"image": 0}

    def evaluation_forwards(self, config: FinetuneConfig) -> Iterator[tuple[int, float]]:
        model, length = config.model, config.data.text_length
        use: Use = "pair" if config.has_text else "image"
        forward = config.images_per_sample * forward_flops(model, use, length) + head_flops(config)
        if config.task == "caption":
            # the image again; then two tokens for each word of each beam, the one before it and a mask token, which see
            # the image and half of the words on average
            most = min(length, LONGEST)
            num_written = config.evaluation.num_beams * (most - 1)
            seen = 4 * model.depth * model.dim * (model.num_image_tokens + most // 2)
            decoded = 2 * num_written * (forward_flops(model, "text", 1) + seen)
            num_words = sum(num_masked((length,), MASK_RATIO)) + num_written
            forward += forward_flops(model, "image", 0) + decoded + 2 * num_words * model.dim * model.vocab_size
        yield config.evaluation.num_samples, forward


def meta_task_micro_step(config: FinetuneConfig, num_samples: int) -> TaskMicroStep:
    """Return the micro-step of pretrain/jobs/task_micro_step.py as tensors without content, with the longest texts."""
    network, length, patch_size = config.model, config.data.text_length, config.model.patch_size

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    images = empty(num_samples, 3, network.image_size, network.image_size, dtype=config.dtype)
    scale = None
    if network.drop_path_rate:
        num_drawn = num_samples * config.images_per_sample
        scale = empty(network.depth, 2, num_drawn, dtype=torch.float32)
    classes, labels = empty(num_samples), config.num_classes or 0
    if config.task == "classify":
        mixed = empty(num_samples, labels, dtype=torch.float32)
        targets = mixed if config.mixing.is_on else classes
        inputs = image_inputs(images, patch_size)
        return TaskMicroStep(config.task, inputs, scale, targets, smoothing=config.label_smoothing)
    ids, padding = empty(num_samples, length), empty(num_samples, length, dtype=torch.bool)
    lengths = (length,) * num_samples
    if config.task == "nlvr2":
        inputs = twin_pair_inputs(images, images, ids, padding, patch_size, lengths)
        return TaskMicroStep(config.task, inputs, scale, classes)
    inputs = pair_inputs(images, ids, padding, patch_size, lengths, causal=config.task == "caption")
    if config.task == "vqa":
        return TaskMicroStep(config.task, inputs, scale, empty(num_samples, labels, dtype=torch.float32))
    counts = num_masked(lengths, config.mask_ratio)
    words = CaptionTargets(empty(num_samples, max(counts)), empty(num_samples, max(counts)), counts)
    return TaskMicroStep(config.task, inputs, scale, words=words, smoothing=config.label_smoothing)
