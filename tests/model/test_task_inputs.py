"""Inputs of the networks of tasks. CPU, seconds."""

import torch

from model.task_inputs import image_inputs, pair_inputs, twin_pair_inputs
from tests.support.tiny import CONFIG

IMAGES = torch.arange(2.0)[:, None, None, None].expand(2, 3, 32, 48)
IDS = torch.tensor([[0, 5, 2], [0, 2, 1]])
PADDING = IDS == 1


def test_pairs_are_whole_images_with_their_texts() -> None:
    inputs = pair_inputs(IMAGES, IDS, PADDING, CONFIG.patch_size, (3, 2))
    assert inputs.image_mask.shape == (2, 24) and not inputs.image_mask.any()
    layout = inputs.layout()
    assert (layout.num_images, layout.num_pairs) == (0, 2) and layout.kind_rows == [0, 2 * 25 + 5, 0]
    assert layout.pair_mask is None and inputs.caption_lengths == (3, 2) and inputs.text_lengths == ()


def test_a_captioners_words_see_the_image_and_the_words_before_them() -> None:
    mask = pair_inputs(IMAGES, IDS, PADDING, CONFIG.patch_size, causal=True).layout().pair_mask
    assert mask is not None and mask.shape == (28, 28)
    assert mask[:25, :25].all() and not mask[:25, 25:].any() and mask[25:, :25].all()
    assert torch.equal(mask[25:, 25:], torch.ones(3, 3).tril().bool())


def test_twins_are_all_first_images_and_then_all_second_ones_with_the_same_sentences() -> None:
    inputs = twin_pair_inputs(IMAGES, IMAGES + 10, IDS, PADDING, CONFIG.patch_size, (3, 2))
    assert inputs.images[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    assert torch.equal(inputs.caption_ids, torch.cat([IDS, IDS])) and inputs.caption_lengths == (3, 2, 3, 2)
    assert torch.equal(inputs.caption_padding, torch.cat([PADDING, PADDING]))
    assert twin_pair_inputs(IMAGES, IMAGES, IDS, PADDING, CONFIG.patch_size).caption_lengths is None


def test_images_alone_have_no_texts() -> None:
    layout = image_inputs(IMAGES, CONFIG.patch_size).layout()
    assert (layout.num_images, layout.num_pairs, layout.num_rows) == (2, 0, 2 * 25)
