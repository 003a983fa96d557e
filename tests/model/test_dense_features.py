"""Maps for dense tasks against the network's own states and a forward that is written out. CPU, seconds."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, pad

from model.config import Checkpointing, CheckpointingMode
from model.dense_features import DenseBackbone, Windows, even_blocks, padded, window_lengths, window_order
from model.embeddings import POSITION_OFFSET, interpolate_positions
from model.masked_data_model import MaskedDataModel
from model.multiway import BlockStates, MultiwayInputs
from tests.support.tiny import CONFIG, tiny_model

PATCH = CONFIG.patch_size
VARIANTS = pytest.mark.parametrize(
    "changes", [{}, {"attention": "decoupled", "num_vl_layers": 0}], ids=["shared", "decoupled"]
)


def pictures(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def own_maps(model: MaskedDataModel, images: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
    """Return the maps of the network's own forward; whole patches only."""
    grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
    no_ids = torch.zeros(0, 3, dtype=torch.int64)
    mask = torch.zeros(len(images), grid[0] * grid[1], dtype=torch.bool)
    found = BlockStates(frozenset(layers))
    model.encoder(MultiwayInputs(images, mask, no_ids, no_ids.bool(), no_ids, no_ids.bool()), block_states=found)
    return [found.states[layer].images[:, 1:].transpose(1, 2).unflatten(2, grid) for layer in layers]


@VARIANTS
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 40), (8, 72)])
def test_maps_are_the_states_of_the_network_at_any_size(changes: dict[str, Any], size: tuple[int, int]) -> None:
    model, images = tiny_model(**changes), pictures(*size)
    backbone = DenseBackbone(model.encoder, layers=(3, 1)).eval()
    found, expected = backbone(images), own_maps(model, images, (3, 1))
    assert found[0].shape == (2, CONFIG.dim, size[0] // PATCH, size[1] // PATCH)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(DenseBackbone(model.encoder)(images)[0], expected[0])


def test_sides_that_patches_do_not_divide_are_padded_with_the_mean_color() -> None:
    backbone, images = DenseBackbone(tiny_model().encoder), pictures(37, 41)
    found = backbone(images)[0]
    assert found.shape[2:] == (5, 6)
    torch.testing.assert_close(found, backbone(pad(images, (0, 7, 0, 3)))[0])
    assert padded(images, 16).shape[2:] == (48, 48) and torch.equal(padded(images, 1), images)


def written_out(model: MaskedDataModel, images: Tensor, side: int, global_blocks: set[int], layer: int) -> Tensor:
    """Return the map after a layer with windows, by a mask over all patches instead of an order."""
    weights = model.encoder.state_dict()
    grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
    windows = torch.tensor([(y // side) * 100 + x // side for y, x in product(range(grid[0]), range(grid[1]))])
    patches = torch.nn.functional.conv2d(
        images, weights["vision_embed.patch_embed.weight"], weights["vision_embed.patch_embed.bias"], stride=PATCH
    )
    positions = interpolate_positions(weights["vision_embed.pos_embed"], grid)[POSITION_OFFSET + 1 :]
    x = patches.flatten(2).transpose(1, 2) + positions
    shared = "shared" if model.encoder.config.attention == "shared" else "vision"

    def normed(values: Tensor, name: str) -> Tensor:
        return layer_norm(values, values.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def projected(values: Tensor, name: str) -> Tensor:
        return linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    for number in range(1, layer + 1):
        block = f"blocks.{number - 1}"
        qkv = projected(normed(x, f"{block}.norm1.{shared}"), f"{block}.attn.qkv.{shared}")
        q, k, v = qkv.unflatten(2, (3, CONFIG.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if number not in global_blocks:
            scores = scores.masked_fill(windows[:, None] != windows, -math.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + projected(normed(attended, f"{block}.attn.norm.{shared}"), f"{block}.attn.proj.{shared}")
        hidden = gelu(projected(normed(x, f"{block}.norm2.vision"), f"{block}.experts.vision.fc1"))
        x = x + projected(normed(hidden, f"{block}.experts.vision.norm"), f"{block}.experts.vision.fc2")
    return x.transpose(1, 2).unflatten(2, grid)


@VARIANTS
@pytest.mark.parametrize("side", [1, 2, 3, 4, 99])
def test_windows_equal_a_forward_with_a_mask(changes: dict[str, Any], side: int) -> None:
    model, images = tiny_model(**changes), pictures(5 * PATCH, 7 * PATCH)
    for global_blocks in ((2,), (1, 3)):
        backbone = DenseBackbone(model.encoder, (2, 3), Windows(side, global_blocks)).eval()
        for layer, found in zip((2, 3), backbone(images), strict=True):
            expected = written_out(model, images, side, set(global_blocks), layer)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_a_patch_is_seen_by_its_window_alone_until_a_global_block() -> None:
    encoder, images = tiny_model().encoder, pictures(32, 32, count=1)
    backbone = DenseBackbone(encoder, (2, 3), Windows(2, (3,)))
    changed = images.clone()
    changed[:, :, 18, 3] += 1  # in the patch (2, 0)
    local, whole = (
        (one - other).abs().amax((0, 1)) > 0 for one, other in zip(backbone(images), backbone(changed), strict=True)
    )
    assert local.nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]] and whole.all()


def test_windows_cover_every_patch_once() -> None:
    order = window_order((3, 5), 2, torch.device("cpu"))
    assert order.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert window_lengths((3, 5), 2) == (4, 4, 2, 2, 2, 1)
    assert (
        even_blocks(12, 4) == (3, 6, 9, 12) and even_blocks(40, 4) == (10, 20, 30, 40) and even_blocks(2, 4) == (1, 2)
    )
    assert Windows().chosen_global_blocks(24) == {6, 12, 18, 24}


def gradients(backbone: DenseBackbone, images: Tensor) -> dict[str, Tensor]:
    backbone.zero_grad()
    torch.stack([maps.square().mean() for maps in backbone(images)]).sum().backward()
    return {
        name: parameter.grad.clone() for name, parameter in backbone.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("windows", [None, Windows(3, (2,))], ids=["whole", "windows"])
def test_all_trainable_parameters_and_no_others_get_gradients(windows: Windows | None) -> None:
    model = tiny_model().requires_grad_(False)
    backbone = DenseBackbone(model.encoder, (1, 3), windows)
    found = gradients(backbone, pictures(40, 40))
    assert set(found) == {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    expected = {"vision_embed.mask_token"} | ({"vision_embed.cls_token"} if windows is not None else set())
    assert {name for name in frozen if "language" not in name} == expected
    assert any(".experts.vision_language." in name for name in frozen)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_changes_no_gradient(mode: CheckpointingMode) -> None:
    images, windows = pictures(40, 24), Windows(2, (2,))
    plain = gradients(DenseBackbone(tiny_model().encoder, (2, 3), windows), images)
    other = gradients(DenseBackbone(tiny_model(checkpointing=Checkpointing(mode)).encoder, (2, 3), windows), images)
    assert plain.keys() == other.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(other[name], gradient)


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_autocast_computes_in_bfloat16_with_gradients_in_float32(mode: CheckpointingMode) -> None:
    images, windows = pictures(40, 24), Windows(2, (2,))
    backbone = DenseBackbone(tiny_model(checkpointing=Checkpointing(mode)).encoder, (2, 3), windows)
    exact, exact_gradients = backbone(images)[0], gradients(backbone, images)
    with torch.autocast("cpu", torch.bfloat16):
        found, found_gradients = backbone(images)[0], gradients(backbone, images)
    assert found.dtype == torch.bfloat16
    assert 1e-4 < (found - exact).abs().max() < 0.05 * exact.abs().max()
    assert found_gradients.keys() == exact_gradients.keys()
    for name, gradient in found_gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact_gradients[name]).norm() < 0.1 * exact_gradients[name].norm(), name


def test_stochastic_depth_drops_branches_in_training_alone() -> None:
    model, images = tiny_model(), pictures(32, 32, count=4)
    plain, backbone = DenseBackbone(model.encoder)(images)[0], DenseBackbone(model.encoder, drop_path_rate=0.5)
    torch.testing.assert_close(backbone.eval()(images)[0], plain)
    backbone.train()
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(backbone(images)[0])
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    scales = backbone._drop_path_scales(torch.zeros(5000, 2, CONFIG.dim))
    assert scales is not None and scales.shape == (CONFIG.depth, 2, 10_000)
    assert set(scales[2].unique().tolist()) == {0, 2} and (scales[0] == 1).all()
    assert (scales[:, :, ::2] == scales[:, :, 1::2]).all() and abs(scales.mean() - 1) < 0.03


def test_its_memory_can_be_planned_on_the_meta_device() -> None:
    backbone = DenseBackbone(tiny_model().encoder, windows=Windows(2)).to("meta")
    assert backbone(torch.empty(2, 3, 50, 33, device="meta"))[0].shape == (2, CONFIG.dim, 7, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda encoder: DenseBackbone(encoder, (0,)),
            "layer 0 is not a block of this network; give numbers from 1 to 3",
        ),
        (lambda encoder: DenseBackbone(encoder, ()), "no layer is given"),
        (lambda encoder: DenseBackbone(encoder, windows=Windows(2, (4,))), "global block 4 is not a block"),
        (lambda encoder: DenseBackbone(encoder, windows=Windows(0)), "a window of side 0 holds no patch"),
        (lambda encoder: DenseBackbone(encoder)(torch.zeros(3, 32, 32)), "shape .3, 32, 32.; give .images, 3, height"),
    ],
)
def test_mistakes_are_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(tiny_model().encoder)
