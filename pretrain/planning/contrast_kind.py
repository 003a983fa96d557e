"""The contrastive stage as a plan sees it: a dual encoder, and the loss of the global batch once per step.

Memory is linear in the global batch: every rank holds the features of all B pairs, 2 B D floats, beside its own and
their gradients, and a chunk of logits of constant size. Operations are quadratic in it: 12 b B D on a rank with b pairs
for softmax, which computes the logits by images and by texts and each of them twice, and 8 b B D for sigmoid, all in
float32. Micro-steps but the first run forward twice (pretrain/jobs/contrast.py).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from model.config import KernelChoice, Use
from model.contrastive_loss import PairNumbers, row_statistics, sigmoid_rows, softmax_gradient
from model.dual_encoder import DualEncoder, DualOutputs
from model.flops import forward_flops
from model.multiway import MultiwayInputs
from pretrain.config.contrast import ContrastConfig
from pretrain.jobs.contrast import contrast_work
from pretrain.jobs.dual_micro_step import DualMicroStep, joined
from pretrain.planning.live_memory import tensors_in
from pretrain.planning.planned_kind import MicroBatch, PlannedKind
from pretrain.planning.pretraining_kind import PlannedPretraining, meta_micro_step

MASKED_DATA = PlannedPretraining()
"""Masked data modeling, as it goes on beside the contrastive loss if the config says so."""


class PlannedContrast(PlannedKind[ContrastConfig]):
    """Contrastive learning on image-text pairs, on request with masked data modeling in the same packed step."""

    module = "pretrain.contrast"
    evaluated_data = ("pairs", "labelled")

    def network(self, config: ContrastConfig, kernels: KernelChoice) -> nn.Module:
        with torch.device("meta"):
            network = DualEncoder(config.model, config.heads, kernels, config.activation_checkpointing)
        return network.to(config.dtype)

    def micro_step(self, config: ContrastConfig, batch: MicroBatch) -> DualMicroStep:
        return meta_dual_micro_step(config, batch)

    def loss(self, network: nn.Module, micro_step: DualMicroStep) -> Tensor:
        outputs: DualOutputs = network(micro_step.inputs, micro_step.drop_path_scale, micro_step.targets)
        # as large as the sums over features times their gradients that a run differentiates
        return torch.stack([part.sum() for part in outputs if part is not None]).sum()

    def loss_of_the_batch(self, config: ContrastConfig, batch: MicroBatch) -> Sequence[Tensor]:
        return contrast_of_a_rank(config, batch.pairs * config.gradient_accumulation_steps)

    def num_forwards_again(self, config: ContrastConfig) -> int:
        return config.gradient_accumulation_steps - 1

    def gathered_bytes(self, config: ContrastConfig) -> int:
        num_floats = 2 * config.model.dim + (2 if config.loss == "softmax" else 0)
        return 4 * num_floats * config.pairs_per_step

    def batch_bytes(self, config: ContrastConfig, batch: MicroBatch) -> int:
        if (masked := config.masked_data) is not None:
            pixels = MASKED_DATA.pixel_bytes(masked, batch)
        else:
            pixels = 2 * batch.pairs * 3 * config.model.image_size**2
        micro = meta_dual_micro_step(config, batch)
        parts = [vars(micro.inputs), {} if micro.targets is None else vars(micro.targets), micro.drop_path_scale]
        return config.gradient_accumulation_steps * (pixels + sum(tensor.nbytes for tensor in tensors_in(parts)))

    def of_the_forward(self, config: ContrastConfig) -> ContrastConfig:
        return config  # the loss of the batch depends on all of it

    def step_flops(self, config: ContrastConfig) -> int:
        captions = (config.data.caption_length,) * config.pairs_per_step
        texts = (config.data.text_length,) * config.texts_per_step
        return contrast_work(config, config.images_per_step, captions, texts).flops

    def uses(self, config: ContrastConfig) -> dict[Use, int]:
        if config.masked_data is not None:
            return MASKED_DATA.uses(config.masked_data)
        return {"image": 0, "text": config.data.caption_length}

    def evaluation_forwards(self, config: ContrastConfig) -> Iterator[tuple[int, float]]:
        settings, model = config.evaluation, config.model
        parts = set(settings.parts)
        image = forward_flops(model, "image", 0) + 2 * model.dim**2
        text = forward_flops(model, "text", config.data.caption_length) + 2 * model.dim**2
        if settings.pairs and parts & {"losses", "retrieval"}:
            yield settings.num_samples, image + text
        if settings.labelled and parts & {"zero_shot", "knn", "probe"}:
            yield settings.num_labelled, image

    def frozen_memory(self, config: ContrastConfig, batch: MicroBatch, device: torch.device) -> tuple[int, int]:
        masked = config.masked_data
        return (0, 0) if masked is None else MASKED_DATA.frozen_memory(masked, batch, device)


def meta_dual_micro_step(config: ContrastConfig, batch: MicroBatch) -> DualMicroStep:
    """Return the micro-step of pretrain/jobs/dual_micro_step.py as tensors without content, with the longest texts."""
    network, length = config.model, config.data.caption_length

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    inputs = MultiwayInputs(
        images=empty(batch.pairs, 3, network.image_size, network.image_size, dtype=config.dtype),
        image_mask=empty(batch.pairs, network.num_patches, dtype=torch.bool),
        caption_ids=empty(0, length, dtype=torch.int64),
        caption_padding=empty(0, length, dtype=torch.bool),
        text_ids=empty(batch.pairs, length, dtype=torch.int64),
        text_padding=empty(batch.pairs, length, dtype=torch.bool),
        caption_lengths=(),
        text_lengths=(length,) * batch.pairs,
    )
    targets, num_samples = None, 2 * batch.pairs
    if (masked_config := config.masked_data) is not None:
        masked = meta_micro_step(masked_config, batch)
        inputs, targets = joined(inputs, masked), masked.targets
        num_samples += batch.images + batch.pairs + batch.texts
    scale = empty(network.depth, 2, num_samples, dtype=torch.float32) if network.drop_path_rate else None
    return DualMicroStep(inputs, scale, targets)


def contrast_of_a_rank(config: ContrastConfig, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Make the calls of pretrain/jobs/global_contrast.py on a rank with this many pairs of the global batch; return the
    gradients with respect to its features, (b, D) each."""
    with torch.device("meta"):
        images, texts = torch.empty(2, num_pairs, config.model.dim)
        all_images, all_texts = _gathered(torch.stack([images, texts], 1), config.pairs_per_step).unbind(1)
        scale, numbers = torch.empty(()), None
        if config.equal_texts == "ignored":
            own = torch.empty(num_pairs, dtype=torch.int64)
            numbers = PairNumbers(own, _gathered(own, config.pairs_per_step))
        if config.loss == "sigmoid":
            by_image = sigmoid_rows(images, all_texts, 0, scale, scale, numbers=numbers)
            by_text = sigmoid_rows(texts, all_images, 0, scale, scale, numbers=numbers)
            return by_image.gradient / 2, by_text.gradient / 2
        of_images = row_statistics(images, all_texts, 0, scale, numbers=numbers).logsumexp
        of_texts = row_statistics(texts, all_images, 0, scale, numbers=numbers).logsumexp
        all_of_images, all_of_texts = _gathered(torch.stack([of_images, of_texts], 1), config.pairs_per_step).unbind(1)
        image_gradient = softmax_gradient(images, all_texts, 0, scale, of_images, all_of_texts, numbers=numbers)
        text_gradient = softmax_gradient(texts, all_images, 0, scale, of_texts, all_of_images, numbers=numbers)
        return image_gradient / 2, text_gradient / 2


def _gathered(values: Tensor, num_pairs: int) -> Tensor:
    """Return what `gathered_from_ranks` allocates for values (b, ...) of each rank."""
    return values.new_empty(num_pairs, *values.shape[1:])
