"""The pieces of the packed rows; images of another size than in training. CPU, seconds."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from model.embeddings import PatchProjection, interpolate_positions
from model.kernels.backend import Backend
from tests.support.kernels import DEVICE
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model


def microsofts_rule(table: Tensor, num_patches: int) -> Tensor:
    """Interpolate as utils.load_model_and_may_interpolate of unilm/beit3 does."""
    num_extra = 3
    old, new = int((len(table) - num_extra) ** 0.5), int(num_patches**0.5)
    extra, patches = table[:num_extra], table[num_extra:]
    patches = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(patches, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([extra, patches.permute(0, 2, 3, 1).flatten(1, 2)[0]])


@pytest.mark.parametrize("grid_size", [14, 24, 7])
def test_positions_are_interpolated_by_microsofts_rule(grid_size: int) -> None:
    table = torch.randn(14 * 14 + 3, 8)
    torch.testing.assert_close(
        interpolate_positions(table, (grid_size, grid_size)), microsofts_rule(table, grid_size**2), atol=1e-6, rtol=0
    )


def test_the_trained_size_keeps_its_table() -> None:
    table = torch.randn(14 * 14 + 3, 8, dtype=torch.bfloat16)
    assert interpolate_positions(table, (14, 14)) is table


def test_a_network_on_larger_images_is_the_network_with_a_larger_table() -> None:
    model, larger = tiny_model(), tiny_model(image_size=48)
    state = model.state_dict()
    name = "encoder.vision_embed.pos_embed"
    larger.load_state_dict({**state, name: interpolate_positions(state[name], (6, 6))})
    inputs = replace(tiny_inputs(1, 2, 1), images=torch.randn(3, 3, 48, 48), image_mask=torch.rand(3, 36) < 0.4)
    with torch.no_grad():
        for ours, theirs in zip(model.encode(inputs), larger.encode(inputs), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_images_need_not_be_square() -> None:
    model, inputs = tiny_model(), tiny_inputs(2, 0, 0)
    inputs = replace(inputs, images=torch.randn(2, 3, 24, 40), image_mask=torch.zeros(2, 15, dtype=torch.bool))
    with torch.no_grad():
        assert model.encode(inputs).images.shape == (2, 16, CONFIG.dim)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (8, 8)])
@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_the_patch_projection_is_a_convolution(num_images: int, size: tuple[int, int]) -> None:
    projection = PatchProjection(3, 5, kernel_size=8, stride=8).double()
    images = torch.randn(num_images, 3, *size, dtype=torch.float64)
    convolved = conv2d(images, projection.weight, projection.bias, stride=8).flatten(2).mT
    found = projection(images)
    torch.testing.assert_close(found, convolved)
    dy, parameters = torch.randn_like(convolved), list(projection.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters, dy), torch.autograd.grad(convolved, parameters, dy)
    )


@pytest.mark.parametrize("counts", [(2, 3, 4), (1, 0, 0), (0, 0, 2), (0, 0, 0)], ids=str)
def test_the_kernels_pack_like_the_reference(counts: tuple[int, int, int]) -> None:
    inputs = tiny_inputs(*counts)
    moved: dict[str, Any] = {name: x.to(DEVICE) for name, x in vars(inputs).items() if isinstance(x, Tensor)}
    inputs = replace(inputs, **moved)
    found: list[list[Tensor]] = []
    encoder, backends = tiny_model().encoder.to(DEVICE), ("reference", "triton")
    for backend in cast(tuple[Backend, ...], backends):
        packed = encoder.pack(inputs, inputs.layout(), backend)
        embeddings = [*encoder.vision_embed.parameters(), *encoder.text_embed.parameters()]
        dy = torch.randn(packed.shape, generator=torch.Generator().manual_seed(5)).to(DEVICE)
        found.append([packed.detach(), *torch.autograd.grad(packed, embeddings, dy)])
    torch.testing.assert_close(found[1], found[0])


def test_a_piece_is_not_a_view_of_a_parameter() -> None:
    encoder, inputs = tiny_model().encoder, tiny_inputs(1, 1, 1)
    pieces = (
        *encoder.vision_embed(inputs.images, inputs.image_mask),
        *encoder.text_embed(inputs.text_ids.flatten(), inputs.text_ids.shape[1]),
    )
    parameters = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    assert parameters.isdisjoint(piece.untyped_storage().data_ptr() for piece in pieces)
