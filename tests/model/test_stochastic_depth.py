"""Stochastic depth. CPU, seconds."""

import torch

from model.stochastic_depth import drop_path_scales


def test_stochastic_depth_keeps_its_rates_and_the_mean() -> None:
    scales = drop_path_scales(0, torch.arange(20_000), depth=5, rate=0.4)
    assert scales.shape == (5, 2, 20_000)
    expected = torch.linspace(0, 0.4, 5)[:, None].expand(5, 2)
    torch.testing.assert_close((scales == 0).float().mean(2), expected, atol=0.015, rtol=0)
    torch.testing.assert_close(scales.mean(2), torch.ones(5, 2), atol=0.03, rtol=0)
    assert (scales[0] == 1).all()
