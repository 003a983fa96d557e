"""Micro-steps from batches: whole and masked images and their targets. CPU, seconds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.loading.dataset import StepDataset
from model.kernels.block_masks import whole_images
from model.objective import IGNORE_INDEX
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs.micro_step import MicroStep, make_micro_step
from pretrain.jobs.visual_tokens import load_visual_tokenizer

STEPS = range(12)


def with_share(config: PretrainConfig, share: float) -> PretrainConfig:
    return replace(config, objective=replace(config.objective, whole_image_share=share))


def micro_steps(config: PretrainConfig, rank: int = 0, world_size: int = 1, num_parts: int = 1) -> list[MicroStep]:
    """Return the micro-steps of a rank in the first steps of a run."""
    size = config.model.image_size
    dataset = StepDataset(config.data, config.samples_per_step, size, config.seed, rank, world_size)
    visual_tokenizer = load_visual_tokenizer(config.visual_tokenizer)
    assert dataset.tokenizer is not None
    parts = (part for step in STEPS for part in dataset[step].micro_batches(num_parts))
    return [make_micro_step(config, part, visual_tokenizer, dataset.tokenizer) for part in parts]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_whole_images_are_those_of_pairs_and_have_no_targets(share: float, two_ranks: Path) -> None:
    config = find_checkpoint(two_ranks, PretrainConfig).config
    num_images, total = config.images_per_step, config.samples_per_step.total
    num_whole = 0
    for step, micro, papers in zip(
        STEPS, micro_steps(with_share(config, share)), micro_steps(with_share(config, 0.0)), strict=True
    ):
        ids = step * total + torch.arange(num_images + config.pairs_per_step)
        is_whole = whole_images(config.seed, ids, share) & (torch.arange(len(ids)) >= num_images)
        num_whole += int(is_whole.sum())
        mask, codes = micro.inputs.image_mask, micro.targets.visual_token_ids
        assert (mask.sum(1) == torch.where(is_whole, 0, config.num_masked_patches)).all()
        assert (codes[is_whole] == IGNORE_INDEX).all() and (codes[~is_whole] >= 0).all()
        # the other images, words and pixels are as in the paper
        assert torch.equal(mask[~is_whole], papers.inputs.image_mask[~is_whole])
        assert torch.equal(codes[~is_whole], papers.targets.visual_token_ids[~is_whole])
        assert torch.equal(micro.inputs.caption_ids, papers.inputs.caption_ids)
        assert torch.equal(micro.inputs.images, papers.inputs.images)
        expected = [num_images, int((~is_whole).sum()) - num_images]
        assert micro.targets.counts()[[0, 2]].tolist() == [n * config.num_masked_patches for n in expected]
    num_pairs = len(STEPS) * config.pairs_per_step
    assert abs(num_whole / num_pairs - share) < (0.25 if share == 0.5 else 1e-9)


def test_the_choice_of_whole_images_depends_on_no_topology(two_ranks: Path) -> None:
    config = with_share(find_checkpoint(two_ranks, PretrainConfig).config, 0.5)
    num_images = config.images_per_step // 2
    ranks = micro_steps(config, 0, 2), micro_steps(config, 1, 2)
    accumulated = micro_steps(config, num_parts=2)
    whole_steps = micro_steps(config)
    for one, *parts in [
        *zip(whole_steps, *ranks, strict=True),
        *zip(whole_steps, accumulated[::2], accumulated[1::2], strict=True),
    ]:
        masks = [part.inputs.image_mask for part in parts]
        joined = torch.cat([mask[:num_images] for mask in masks] + [mask[num_images:] for mask in masks])
        assert torch.equal(joined, one.inputs.image_mask)


def test_objectives_without_samples_are_not_logged(two_ranks: Path) -> None:
    config = find_checkpoint(two_ranks, PretrainConfig).config
    assert "mvlm_image" in with_share(config, 0.5).objectives
    assert "mvlm_image" not in with_share(config, 1.0).objectives
