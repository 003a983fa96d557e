"""From a batch of samples to the inputs and targets of one forward: tokens, masks, stochastic depth.

All randomness is keyed by the seed and by the sample's id, its place in the run (model/philox.py): the same sample is
masked alike on any number of ranks, in any micro-step and after a restart.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.loading.batch import StepBatch
from data_pipeline.texts.tokenizer import TextTokenizer
from model.kernels.backend import choose_backend
from model.kernels.block_masks import block_image_masks, whole_images
from model.kernels.text_masks import mask_texts
from model.masked_data_model import MaskedTargets
from model.multiway import MultiwayInputs
from model.objective import IGNORE_INDEX, num_masked
from model.stochastic_depth import drop_path_scales
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs.visual_tokens import network_view, tokenizer_dtype, tokenizer_view, tokenizer_view_size


@dataclass(frozen=True, eq=False)
class MicroStep:
    """The arguments of one forward of MaskedDataModel."""

    inputs: MultiwayInputs
    targets: MaskedTargets
    drop_path_scale: Tensor | None


@torch.no_grad()
def make_micro_step(
    config: PretrainConfig, batch: StepBatch, visual_tokenizer: VisualTokenizer, text_tokenizer: TextTokenizer
) -> MicroStep:
    """Mask parts of a batch and return inputs and targets; a function of the seed, the samples and their ids."""
    objective, seed = config.objective, config.seed
    backend = choose_backend(config.kernels, batch.image_sample_ids.device)
    image_masks = block_image_masks(
        seed,
        batch.image_sample_ids,
        config.model.grid_size,
        config.num_masked_patches,
        objective.min_block_patches,
        backend,
    )
    view = tokenizer_view(batch.images, tokenizer_view_size(visual_tokenizer.config, config.model))
    # of whole images: the tokenizer must see what the network has to predict
    codes = visual_tokenizer.tokenize(view, tokenizer_dtype(config, view.device))

    num_pairs = len(batch.caption_ids)
    num_images = len(batch.images) - num_pairs
    pair_sample_ids = batch.image_sample_ids[num_images:]
    image_mask, visual_token_ids = image_masks.mask, codes.gather(1, image_masks.positions)
    if objective.whole_image_share:
        is_whole = whole_images(seed, batch.image_sample_ids, objective.whole_image_share)
        is_whole[:num_images] = False  # an unmasked image without a caption would teach nothing
        image_mask = image_mask & ~is_whole[:, None]
        # Their places still go through the head, with labels that the loss ignores: leaving them out would save less
        # than 1 % of a step and need their number on the host.
        visual_token_ids = visual_token_ids.masked_fill(is_whole[:, None], IGNORE_INDEX)
    mask_id, piece_ids = text_tokenizer.mask_id, text_tokenizer.piece_ids
    captions = mask_texts(
        seed,
        pair_sample_ids,
        batch.caption_ids,
        batch.caption_padding,
        objective.caption_mask_ratio,
        mask_id,
        piece_ids,
        backend,
    )
    texts = mask_texts(
        seed,
        batch.text_sample_ids,
        batch.text_ids,
        batch.text_padding,
        objective.text_mask_ratio,
        mask_id,
        piece_ids,
        backend,
    )
    inputs = MultiwayInputs(
        images=network_view(batch.images, config.model.image_size).to(config.dtype),
        image_mask=image_mask,
        caption_ids=captions.ids,
        caption_padding=batch.caption_padding,
        text_ids=texts.ids,
        text_padding=batch.text_padding,
        # on the host: packing drops padding, and the number of packed rows must be known without reading the device
        caption_lengths=batch.caption_lengths,
        text_lengths=batch.text_lengths,
    )
    targets = MaskedTargets(
        image_positions=image_masks.positions,
        visual_token_ids=visual_token_ids,
        caption_positions=captions.positions,
        caption_labels=captions.labels,
        text_positions=texts.positions,
        text_labels=texts.labels,
        caption_counts=num_masked(batch.caption_lengths, objective.caption_mask_ratio),
        text_counts=num_masked(batch.text_lengths, objective.text_mask_ratio),
    )
    return MicroStep(inputs, targets, _drop_path_scale(config, batch))


def _drop_path_scale(config: PretrainConfig, batch: StepBatch) -> Tensor | None:
    """Return the factors of stochastic depth, (depth, 2, I + P + T); None without it."""
    if config.model.drop_path_rate == 0:
        return None
    sample_ids = torch.cat([batch.image_sample_ids, batch.text_sample_ids])
    return drop_path_scales(config.seed, sample_ids, config.model.depth, config.model.drop_path_rate)
