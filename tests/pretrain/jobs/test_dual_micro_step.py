"""Micro-steps of a dual encoder: each pair as an image and as a text, and as a masked pair. CPU, seconds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from data_pipeline.loading.dataset import StepDataset
from data_pipeline.texts.tokenizer import PAD_ID
from pretrain.config.contrast import ContrastConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs.dual_micro_step import DualMicroStep, make_dual_micro_step
from pretrain.jobs.micro_step import make_micro_step
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from pretrain.recipes.contrast import contrast_demo
from pretrain.recipes.small import demo
from tests.support.tiny_run import TEXT_LENGTH, TinyData


def config_for(data: TinyData, is_masked: bool) -> ContrastConfig:
    recipe = contrast_demo()
    folders: dict[str, Any] = {kind: (str(data.folder / kind),) for kind in ("images", "pairs", "texts")}
    tokenizer = data.folder / "text_tokenizer.spm"
    config = replace(
        recipe,
        data=replace(recipe.data, **folders, text_tokenizer=tokenizer, text_length=TEXT_LENGTH, caption_length=16),
        pairs_per_step=8,
    )
    if not is_masked:
        return config
    return replace(
        config,
        masked_data_weight=1.0,
        visual_tokenizer=data.folder / "visual_tokenizer.pt",
        objective=demo().objective,
        images_per_step=4,
        texts_per_step=4,
    )


def micro_steps(config: ContrastConfig, rank: int = 0, world_size: int = 1, num_parts: int = 1) -> list[DualMicroStep]:
    """Return the micro-steps of a rank in step 2 of a run."""
    size = config.model.image_size
    dataset = StepDataset(config.data, config.samples_per_step, size, config.seed, rank, world_size)
    visual_tokenizer = None
    if config.visual_tokenizer is not None:
        visual_tokenizer = load_visual_tokenizer(config.visual_tokenizer)
    assert dataset.tokenizer is not None
    parts = dataset[2].micro_batches(num_parts)
    return [make_dual_micro_step(config, part, visual_tokenizer, dataset.tokenizer) for part in parts]


def test_a_pair_becomes_a_whole_image_and_a_text(tiny_data: TinyData) -> None:
    config = config_for(tiny_data, is_masked=False)
    (micro,) = micro_steps(config)
    inputs = micro.inputs
    assert inputs.images.shape == (8, 3, 48, 48) and not inputs.image_mask.any()
    assert inputs.caption_ids.shape == (0, 16) and inputs.text_ids.shape == (8, 16)
    assert inputs.text_lengths == tuple((inputs.text_ids != PAD_ID).sum(1).tolist())
    layout = inputs.layout()
    assert (layout.num_images, layout.num_pairs, len(layout.texts.lengths)) == (8, 0, 8)
    assert micro.targets is None
    scales = micro.drop_path_scale
    assert scales is not None and scales.shape == (config.model.depth, 2, 16)
    images, texts = scales[1:].split(8, dim=2)
    assert not torch.equal(images, texts)  # an image and its text are dropped independently


def test_masked_data_modeling_sees_the_samples_as_pretraining_does(tiny_data: TinyData) -> None:
    config = config_for(tiny_data, is_masked=True)
    (micro,) = micro_steps(config)
    beside = config.masked_data
    assert isinstance(beside, PretrainConfig)
    dataset = StepDataset(config.data, config.samples_per_step, config.model.image_size, config.seed)
    assert dataset.tokenizer is not None and config.visual_tokenizer is not None
    masked = make_micro_step(beside, dataset[2], load_visual_tokenizer(config.visual_tokenizer), dataset.tokenizer)
    inputs = micro.inputs
    assert torch.equal(inputs.images, torch.cat([masked.inputs.images[4:], masked.inputs.images]))
    assert torch.equal(inputs.image_mask[8:], masked.inputs.image_mask) and not inputs.image_mask[:8].any()
    assert torch.equal(inputs.caption_ids, masked.inputs.caption_ids)
    assert inputs.text_ids.shape == (12, TEXT_LENGTH)
    assert torch.equal(inputs.text_ids[8:], masked.inputs.text_ids)
    assert inputs.text_padding[:8, 16:].all()
    assert inputs.text_lengths is not None and len(inputs.text_lengths) == 12
    assert inputs.text_lengths == tuple((~inputs.text_padding).sum(1).tolist())
    assert micro.targets is not None and torch.equal(micro.targets.visual_token_ids, masked.targets.visual_token_ids)
    assert micro.drop_path_scale is not None and micro.drop_path_scale.shape[2] == 8 + 4 + 8 + 8 + 4


@pytest.mark.parametrize("is_masked", [False, True])
def test_samples_and_what_is_dropped_depend_on_no_topology(is_masked: bool, tiny_data: TinyData) -> None:
    config = config_for(tiny_data, is_masked)
    (whole,) = micro_steps(config)
    by_rank = [*micro_steps(config, 0, 2), *micro_steps(config, 1, 2)]
    by_micro_step = micro_steps(config, num_parts=2)
    assert whole.drop_path_scale is not None
    groups = [8, 4, 8, 8, 4] if is_masked else [8, 8]  # images, masked images, masked pairs, texts, masked texts
    for one, other in (by_rank, by_micro_step):
        scales = [part.drop_path_scale for part in (one, other)]
        halves = [each.split([n // 2 for n in groups], 2) for each in scales if each is not None]
        joined = torch.cat([part for pair in zip(*halves, strict=True) for part in pair], 2)
        assert torch.equal(joined, whole.drop_path_scale)
        images = torch.cat([one.inputs.images[:4], other.inputs.images[:4]])
        assert torch.equal(images, whole.inputs.images[:8])
        texts = torch.cat([one.inputs.text_ids[:4], other.inputs.text_ids[:4]])
        assert torch.equal(texts, whole.inputs.text_ids[:8])
