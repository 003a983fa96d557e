"""The simple feature pyramid against its definition, in functions of torch. CPU, seconds."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, gelu, max_pool2d

from model.dense_features import DenseBackbone, Windows
from model.feature_pyramid import LEVELS, PyramidBackbone, SimpleFeaturePyramid
from tests.support.tiny import CONFIG, tiny_model

DIM, CHANNELS = 16, 12


def randomized(pyramid: SimpleFeaturePyramid) -> dict[str, Tensor]:
    """Fill norms too with random numbers, and return the weights."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pyramid.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return dict(pyramid.state_dict())


def test_every_level_equals_the_definition() -> None:
    pyramid = SimpleFeaturePyramid(DIM, CHANNELS)
    weights, patches = randomized(pyramid), torch.randn(2, DIM, 6, 4)

    def normed(maps: Tensor, name: str) -> Tensor:
        centered = maps - maps.mean(1, keepdim=True)
        scaled = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"].view(-1, 1, 1) + weights[f"{name}.bias"].view(-1, 1, 1)

    def doubled(maps: Tensor, name: str) -> Tensor:
        return conv_transpose2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2)

    def smoothed(maps: Tensor, level: str, first: int) -> Tensor:
        maps = normed(conv2d(maps, weights[f"{level}.{first}.weight"]), f"{level}.{first + 1}")
        return normed(conv2d(maps, weights[f"{level}.{first + 2}.weight"], padding=1), f"{level}.{first + 3}")

    expected = {
        "p2": smoothed(doubled(gelu(normed(doubled(patches, "p2.0"), "p2.1")), "p2.3"), "p2", 4),
        "p3": smoothed(doubled(patches, "p3.0"), "p3", 1),
        "p4": smoothed(patches, "p4", 0),
        "p5": smoothed(max_pool2d(patches, 2), "p5", 1),
    }
    found = pyramid(patches)
    assert tuple(found) == LEVELS
    for level, maps in expected.items():
        torch.testing.assert_close(found[level], maps, atol=1e-5, rtol=1e-5)


def test_the_pyramid_of_the_base_has_the_parameters_of_detectron2s() -> None:
    with torch.device("meta"):
        pyramid = SimpleFeaturePyramid(768)
    deconvolutions = 2 * (4 * 768 * 384 + 384) + 2 * 384 + 4 * 384 * 192 + 192  # with the norm between two of them
    ends = (192 + 384 + 768 + 768) * 256 + 4 * (9 * 256 * 256 + 4 * 256)
    assert sum(parameter.numel() for parameter in pyramid.parameters()) == deconvolutions + ends


@pytest.mark.parametrize(("size", "padded_size"), [((64, 32), (64, 32)), ((50, 33), (64, 48)), ((1, 1), (16, 16))])
def test_strides_hold_at_any_size(size: tuple[int, int], padded_size: tuple[int, int]) -> None:
    network = PyramidBackbone(DenseBackbone(tiny_model().encoder, windows=Windows(2)), CHANNELS)
    assert network.size_divisor == 2 * CONFIG.patch_size == 16
    assert network.strides == {"p2": 2, "p3": 4, "p4": 8, "p5": 16}
    for level, maps in network(torch.randn(2, 3, *size)).items():
        expected = (side / network.strides[level] for side in padded_size)
        assert maps.shape == (2, CHANNELS, *expected)


def test_gradients_reach_the_patches() -> None:
    network = PyramidBackbone(DenseBackbone(tiny_model().encoder), CHANNELS)
    sum(maps.square().mean() for maps in network(torch.randn(1, 3, 32, 32)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters() if p.requires_grad)


def test_a_width_that_has_no_quarter_is_refused() -> None:
    with pytest.raises(ValueError, match="dim 18 must be a multiple of 4"):
        SimpleFeaturePyramid(18)
