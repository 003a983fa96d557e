"""The job of the contrastive stage: a dual encoder learns which text belongs to which image of the global batch.

Each feature's gradient depends on the features of all ranks and micro-steps, so they come first: a step runs its
micro-steps without gradients, all but the first, computes the loss of the global batch and its gradient with respect to
the features, and then runs forward and backward of one micro-step after the other. The backward of

    sum(features * gradient) + logit_scale * sum(images * image_gradient) + logit_bias * bias_gradient

gives every parameter the gradient of the contrastive loss, exactly, whatever the number of ranks and micro-steps. The
two forwards of a micro-step agree to the bit: stochastic depth is drawn by sample, and nothing else is drawn.

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache, arXiv
2101.06983). Microsoft never published how its `itc` files were trained; docs/contrastive.md says what was.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.texts.tokenizer import TextTokenizer
from model.dual_encoder import DualEncoder, DualOutputs
from model.flash_attention import activate_flash_attention
from model.flops import StepSize, training_flops
from model.initialization import init_weights
from model.kernels.backend import choose_backend
from model.visual_tokenizer import VisualTokenizer
from pretrain.checkpoints.initial_weights import (
    HEADS,
    InitialWeights,
    check_initial_weights,
    load_initial_weights,
    weights_file,
    weights_of_new_run,
)
from pretrain.checkpoints.reader import TEXT_TOKENIZER_NAME
from pretrain.config.contrast import ContrastConfig
from pretrain.engine.machine_memory import check_batch_fits, check_network_fits
from pretrain.jobs.dual_micro_step import DualMicroStep, make_dual_micro_step
from pretrain.jobs.global_contrast import global_contrast
from pretrain.jobs.job import Job, Step, StepLoss, StepWork, open_dataset
from pretrain.jobs.pretraining import (
    MaskedLosses,
    Pretraining,
    check_visual_tokenizer,
    check_vocabulary,
    part_of_block,
)
from pretrain.jobs.visual_tokens import load_visual_tokenizer, tokenizer_view_size
from pretrain.survival.console import say

LARGEST_SCALE = 100.0
"""Highest factor of similarities (CLIP's)."""
PROJECTIONS = ("vision_head.", "language_head.")
"""Beginnings of the names of parameters that head_lr_factor is for."""


class Contrast(Job[ContrastConfig]):
    """Contrastive learning on image-text pairs, on request with masked data modeling in the same packed step."""

    leaf_modules = Pretraining.leaf_modules
    undecayed = Pretraining.undecayed
    bfloat16_weights = True
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType(
        {"logit_scale": (0.0, math.log(LARGEST_SCALE))}
    )
    progress_fields = ("losses", "contrast")

    visual_tokenizer: VisualTokenizer | None = None
    text_tokenizer: TextTokenizer
    initial_weights: InitialWeights | None = None
    attention: str
    """The attention that torch runs, for the log."""
    masked_weights: Tensor
    """(4,), of the losses of masked data modeling, in the order of OBJECTIVES."""

    def prepare(self, rank: int, world_size: int) -> StepDataset:
        config, network = self.config, self.config.model
        self.initial_weights = weights_of_new_run(config)  # a mistake in their path comes before those of the data
        choose_backend(config.kernels, self.device)
        self.attention = activate_flash_attention(config.flash_attention, self.device)
        check_network_fits(lambda: DualEncoder(network, config.heads))
        self.masked_weights = config.masked_data_weight * torch.tensor(config.objective.weights, device=self.device)
        image_size = network.image_size
        if (masked := config.masked_data) is not None:
            self.visual_tokenizer = load_visual_tokenizer(masked.visual_tokenizer).to(self.device)
            view_size = tokenizer_view_size(self.visual_tokenizer.config, network)
            check_visual_tokenizer(self.visual_tokenizer, view_size, masked, self.device)
            image_size = max(image_size, view_size)
        text_ids = config.pairs_per_step * config.data.caption_length + config.texts_per_step * config.data.text_length
        check_batch_fits(config.samples_per_step, image_size, text_ids, world_size)
        dataset = open_dataset(config, image_size, rank, world_size)
        assert dataset.tokenizer is not None and config.data.text_tokenizer is not None
        self.text_tokenizer = dataset.tokenizer
        check_vocabulary(dataset.tokenizer, network)
        if self.initial_weights is not None:
            free = {"image_size"} | ({"num_visual_tokens"} if masked is None else set())
            check_initial_weights(self.initial_weights, network, config.data.text_tokenizer, free)
        return dataset

    def files(self, config: ContrastConfig) -> dict[str, Path | None]:
        found = {"text tokenizer": config.data.text_tokenizer}
        if config.masked_data_weight:
            found["visual tokenizer"] = config.visual_tokenizer
        if self.initial_weights is not None:
            found["initial weights"] = weights_file(self.initial_weights.folder)
        return found

    def build_model(self, is_new: bool) -> nn.Module:
        config = self.config
        model = DualEncoder(config.model, config.heads, config.kernels, config.activation_checkpointing)
        init_weights(model, config.model, config.seed)
        if self.initial_weights is not None and is_new:
            missing = load_initial_weights(self.initial_weights, model, may_lack=HEADS)
            with torch.no_grad():
                model.logit_scale.clamp_(*self.bounds["logit_scale"])
            if dist.get_rank() == 0:
                new = f"; initialized, as they lack it: {', '.join(missing)}" if missing else ""
                say(f"starts from the weights in {self.initial_weights.folder}{new}")
        return model

    def start_step(self, engine: deepspeed.DeepSpeedEngine, batch: StepBatch) -> Step:
        config = self.config
        micro_steps = [
            make_dual_micro_step(config, part, self.visual_tokenizer, self.text_tokenizer)
            for part in batch.micro_batches(config.gradient_accumulation_steps)
        ]
        masked = None
        if (masked_config := config.masked_data) is not None:
            targets = (micro_step.targets for micro_step in micro_steps if micro_step.targets is not None)
            masked = MaskedLosses(targets, self.masked_weights, masked_config.objectives)
        pair_numbers = batch.caption_hashes if config.equal_texts == "ignored" else None
        return ContrastStep(engine, micro_steps, masked, pair_numbers)

    def lr_scale(self, name: str) -> float:
        if not self.is_trained(name):
            return 0.0
        config, depth = self.config, self.config.model.depth
        scale = config.layer_decay ** (depth + 1 - layer_of(name, depth))
        return scale * config.head_lr_factor if name.startswith(PROJECTIONS) else scale

    def is_trained(self, name: str) -> bool:
        """Return whether the loss depends on a parameter.

        The others have gradients of zero, in every step, from runs on zero rows. Weight decay would still shrink them,
        so they have no learning rate, and end as they began. (The vision-language rows of a block's `vectors` share a
        parameter with trained ones; without weight decay a gradient that is always zero leaves them alone.)
        """
        is_masked_only = ".vision_language." in name or name.endswith("mask_token")
        return bool(self.config.masked_data_weight) or not is_masked_only

    def part_of(self, name: str) -> str:
        return part_of_block(name)

    def checkpoint_files(self) -> dict[str, bytes]:
        assert self.config.data.text_tokenizer is not None
        return {TEXT_TOKENIZER_NAME: self.config.data.text_tokenizer.read_bytes()}

    def describe(self) -> list[str]:
        config = self.config
        beside = ""
        if config.masked_data_weight:
            beside = f"; masked data modeling beside it, weight {config.masked_data_weight:g}"
        return [
            f"kernels: {choose_backend(config.kernels, self.device)}; attention: {self.attention}",
            f"contrast: {config.loss} over {config.pairs_per_step} pairs, texts of up to {config.data.caption_length} "
            f"tokens{', equal ones ignored' * (config.equal_texts == 'ignored')}{beside}",
        ]

    def work(self, batch: StepBatch) -> StepWork:
        num_images = len(batch.images) - len(batch.caption_lengths)
        return contrast_work(self.config, num_images, batch.caption_lengths, batch.text_lengths)


class ContrastStep(Step):
    """The contrastive loss of the global batch, and the weighted losses of masked data modeling beside it."""

    def __init__(
        self,
        engine: deepspeed.DeepSpeedEngine,
        micro_steps: list[DualMicroStep],
        masked: MaskedLosses | None,
        pair_numbers: Tensor | None = None,
    ):
        """Run the forwards that the loss of the global batch needs, and compute it.

        masked: the losses of masked data modeling; None without. pair_numbers: (b,) int64, of the pairs of all
        micro-steps, equal for those that are not compared with each other; None to compare all.
        """
        self.micro_steps, self.masked = micro_steps, masked
        with torch.no_grad():
            others = [_forward(engine, micro_step) for micro_step in micro_steps[1:]]
        # With gradients, and last, so that its backward is next: a step of one micro-step has no second forward.
        self._first: DualOutputs | None = _forward(engine, micro_steps[0])
        outputs = [self._first, *others]
        self._logit_scale = self._first.logit_scale.detach()
        images = torch.cat([output.images.detach() for output in outputs])
        texts = torch.cat([output.texts.detach() for output in outputs])
        bias = None if self._first.logit_bias is None else self._first.logit_bias.detach()
        found = global_contrast(images, texts, self._logit_scale, bias, pair_numbers=pair_numbers)
        self._loss, self._accuracy, self._bias_gradient = found.loss, found.accuracy, found.bias_gradient
        sizes = [len(output.images) for output in outputs]
        self._gradients = list(zip(found.image_gradient.split(sizes), found.text_gradient.split(sizes), strict=True))
        # DeepSpeed divides gradients by ranks and micro-steps; these are parts of a sum already
        self._undo_averaging = dist.get_world_size() * len(micro_steps)

    def forward(self, engine: deepspeed.DeepSpeedEngine, micro_step: DualMicroStep) -> tuple[Tensor, Tensor]:
        outputs, self._first = self._first, None
        if outputs is None:
            outputs = _forward(engine, micro_step)
        image_gradient, text_gradient = self._gradients.pop(0)
        loss = (outputs.images * image_gradient).sum() + (outputs.texts * text_gradient).sum()
        loss = loss + outputs.logit_scale * (outputs.images.detach() * image_gradient).sum()
        if outputs.logit_bias is not None:
            loss = loss + outputs.logit_bias * (self._bias_gradient / len(self.micro_steps))
        if self.masked is None or outputs.masked_losses is None:
            return loss * self._undo_averaging, loss.detach()
        loss = loss + self.masked.weighted(outputs.masked_losses)
        return loss * self._undo_averaging, outputs.masked_losses.detach()

    def reduce(self, metrics: list[Tensor]) -> StepLoss:
        if self.masked is None:
            return StepLoss(self._loss, {"contrastive": self._loss})
        beside = self.masked.reduce(metrics)
        return StepLoss(self._loss + beside.total, {"contrastive": self._loss, **beside.parts})

    def after_update(self, engine: deepspeed.DeepSpeedEngine, is_applied: bool) -> dict[str, Any]:
        """Log the factor of similarities that the step used, and how often the nearest in the batch was the right."""
        to_text, to_image = self._accuracy.unbind()
        figures = {"scale": self._logit_scale.exp(), "image_to_text": to_text, "text_to_image": to_image}
        return {"contrast": figures}


def contrast_work(
    config: ContrastConfig, num_images: int, caption_lengths: Sequence[int], text_lengths: Sequence[int]
) -> StepWork:
    """Return the work of a part of a step; num_images: image-only samples; lengths in tokens, of one caption per pair.

    Every image and every text counts once: forwards without gradients are overhead, as recomputation is.
    """
    num_pairs, dim = len(caption_lengths), config.model.dim
    step = StepSize(num_pairs, (), caption_lengths, masked_patches=0, masked_words=0)
    num_tokens, flops = step.num_tokens(config.model), training_flops(config.model, step)
    heads_and_logits = 2 * num_pairs * dim * (2 * dim + config.pairs_per_step)
    if (masked := config.masked_data) is not None:
        beside = masked.step_size(num_images, caption_lengths, text_lengths)
        num_tokens += beside.num_tokens(config.model)
        flops += training_flops(config.model, beside)
    return StepWork(num_tokens, flops + 3 * heads_and_logits)


def layer_of(name: str, depth: int) -> int:
    """Return the layer of a parameter of a dual encoder for layer-wise decay: embeddings 0, blocks 1 to depth, the last
    norm and the heads depth + 1.

    Source: Microsoft's finetuning code, beit3/optim_factory.py, get_num_layer_for_vit.
    """
    if "embed." in name:
        return 0
    _, is_in_block, place = name.partition(".blocks.")
    return int(place.split(".")[0]) + 1 if is_in_block else depth + 1


def _forward(engine: deepspeed.DeepSpeedEngine, micro_step: DualMicroStep) -> DualOutputs:
    outputs: DualOutputs = engine(micro_step.inputs, micro_step.drop_path_scale, micro_step.targets)
    return outputs
