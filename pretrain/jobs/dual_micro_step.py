"""From a batch of pairs to the inputs of one forward of a DualEncoder: images without texts, texts without images.

A pair gives one image and one text, which the network sees apart; with masked data modeling it is seen a third time, as
a masked pair, in the same packed step. All randomness is keyed by the seed and by the sample's id, as in micro_step.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from data_pipeline.loading.batch import StepBatch
from data_pipeline.texts.tokenizer import PAD_ID, TextTokenizer
from model.masked_data_model import MaskedTargets
from model.multiway import MultiwayInputs
from model.stochastic_depth import drop_path_scales
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.contrast import ContrastConfig
from pretrain.jobs.micro_step import MicroStep, make_micro_step
from pretrain.jobs.visual_tokens import network_view

AS_IMAGE, AS_TEXT, AS_MASKED = range(3)
"""Uses of one sample in a step. Each is dropped by stochastic depth independently."""


@dataclass(frozen=True, eq=False)
class DualMicroStep:
    """The arguments of one forward of DualEncoder."""

    inputs: MultiwayInputs
    drop_path_scale: Tensor | None
    targets: MaskedTargets | None


@torch.no_grad()
def make_dual_micro_step(
    config: ContrastConfig, batch: StepBatch, visual_tokenizer: VisualTokenizer | None, text_tokenizer: TextTokenizer
) -> DualMicroStep:
    """Return the inputs of a part of a batch; visual_tokenizer: only for masked data modeling."""
    num_pairs = len(batch.caption_ids)
    pair_images = batch.images[len(batch.images) - num_pairs :]
    images = network_view(pair_images, config.model.image_size).to(config.dtype)
    inputs = MultiwayInputs(
        images=images,
        image_mask=torch.zeros(num_pairs, config.model.num_patches, dtype=torch.bool, device=images.device),
        caption_ids=batch.caption_ids[:0],
        caption_padding=batch.caption_padding[:0],
        text_ids=batch.caption_ids,
        text_padding=batch.caption_padding,
        # on the host, as in micro_step.py
        caption_lengths=(),
        text_lengths=batch.caption_lengths,
    )
    targets = None
    if (masked_config := config.masked_data) is not None:
        assert visual_tokenizer is not None
        masked = make_micro_step(masked_config, batch, visual_tokenizer, text_tokenizer)
        inputs, targets = joined(inputs, masked), masked.targets
    return DualMicroStep(inputs, _drop_path_scale(config, batch), targets)


def joined(dual: MultiwayInputs, masked: MicroStep) -> MultiwayInputs:
    """Return one packed step: images and texts of the dual encoder, then the samples of masked data modeling."""
    other = masked.inputs
    width = max(dual.text_ids.shape[1], other.text_ids.shape[1])
    text_ids = torch.cat([pad(ids, (0, width - ids.shape[1]), value=PAD_ID) for ids in (dual.text_ids, other.text_ids)])
    assert dual.text_lengths is not None and other.text_lengths is not None
    return MultiwayInputs(
        images=torch.cat([dual.images, other.images]),
        image_mask=torch.cat([dual.image_mask, other.image_mask]),
        caption_ids=other.caption_ids,
        caption_padding=other.caption_padding,
        text_ids=text_ids,
        # not from the ids: a masked word may be drawn as any of them
        text_padding=torch.cat(
            [pad(part, (0, width - part.shape[1]), value=True) for part in (dual.text_padding, other.text_padding)]
        ),
        caption_lengths=other.caption_lengths,
        text_lengths=dual.text_lengths + other.text_lengths,
    )


def _drop_path_scale(config: ContrastConfig, batch: StepBatch) -> Tensor | None:
    """Return the factors of stochastic depth of all samples in the order of the inputs; None without it."""
    if config.model.drop_path_rate == 0:
        return None
    pairs = batch.image_sample_ids[len(batch.image_sample_ids) - len(batch.caption_ids) :]
    uses = [(pairs, AS_IMAGE), (pairs, AS_TEXT)]
    if config.masked_data_weight:
        uses = [
            (pairs, AS_IMAGE),
            (batch.image_sample_ids, AS_MASKED),
            (pairs, AS_TEXT),
            (batch.text_sample_ids, AS_MASKED),
        ]
    sample_ids = torch.cat([3 * ids + use for ids, use in uses])
    return drop_path_scales(config.seed, sample_ids, config.model.depth, config.model.drop_path_rate)
