"""Stochastic depth. CPU, seconds."""

import torch

from model.kernels.block_masks import whole_images
from model.stochastic_depth import drop_path_scales


def test_stochastic_depth_keeps_its_rates_and_the_mean() -> None:
    scales = drop_path_scales(0, torch.arange(20_000), depth=5, rate=0.4)
    assert scales.shape == (5, 2, 20_000)
    expected = torch.linspace(0, 0.4, 5)[:, None].expand(5, 2)
    torch.testing.assert_close((scales == 0).float().mean(2), expected, atol=0.015, rtol=0)
    torch.testing.assert_close(scales.mean(2), torch.ones(5, 2), atol=0.03, rtol=0)
    assert (scales[0] == 1).all()


def test_the_share_of_whole_images_is_kept_and_an_image_keeps_its_draw_in_any_batch() -> None:
    ids = torch.arange(20_000)
    assert not whole_images(0, ids, 0.0).any() and whole_images(0, ids, 1.0).all()
    is_whole = whole_images(0, ids, 0.3)
    assert abs(float(is_whole.float().mean()) - 0.3) < 0.01
    assert torch.equal(whole_images(0, ids[37:41], 0.3), is_whole[37:41])
    assert not torch.equal(whole_images(1, ids, 0.3), is_whole)
    assert (is_whole <= whole_images(0, ids, 0.5)).all()  # a larger share keeps those of a smaller one
    # the draws of stochastic depth are others
    dropped = drop_path_scales(0, ids, depth=2, rate=0.3)[1, 0] == 0
    assert abs(float((is_whole & dropped).float().mean()) - 0.09) < 0.01
