from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model.kernels.backend import Backend
from model.kernels.token_assembly import ImagePieces, TextPieces, assemble_tokens
from tests.support.kernels import DEVICE, assert_same, outputs_and_gradients, random_tensors

Sizes = tuple[int, int, int, tuple[int, ...]]
SIZES: list[Sizes] = [
    (1, 2, 1, (1, 1)),
    (9, 3, 5, (5, 2, 4, 0, 1)),
    (17, 5, 4, (3,) * 7 + (2, 1, 4, 0, 2, 2, 1, 3, 3, 4, 2)),
    (8, 1, 7, (7, 6, 7, 7, 1, 7, 7, 7)),
    (2, 5, 1, (0, 0)),
    (0, 5, 5, (5, 4, 5)),
    (3, 2, 0, ()),
    (0, 1, 0, ()),
]
"""Number of images, of tokens per image, of words in the longest text, and of words in each text."""


def assembly(sizes: Sizes, backend: Backend, hidden: float = 0.4) -> Callable[..., Tensor]:
    """Return the operation as a function of the tensors of `pieces`, with a random mask."""
    num_images, image_tokens, _, lengths = sizes
    generator = torch.Generator().manual_seed(3)
    image_mask = (torch.rand((num_images, image_tokens - 1), generator=generator) < hidden).to(DEVICE)
    begins = torch.tensor([sum(lengths[:text]) for text in range(len(lengths) + 1)], dtype=torch.int32, device=DEVICE)
    places = [place for length in lengths for place in range(length)]
    words = (torch.tensor(places, dtype=torch.int64, device=DEVICE), begins)
    return lambda *tensors: assemble_tokens(
        ImagePieces(*tensors[:4]), TextPieces(*tensors[4:]), image_mask, *words, backend
    )


def pieces(sizes: Sizes, dim: int) -> list[Tensor]:
    num_images, image_tokens, text_tokens, lengths = sizes
    return random_tensors(
        0,
        (num_images, image_tokens - 1, dim),
        (dim,),
        (dim,),
        (image_tokens, dim),
        (sum(lengths), dim),
        (text_tokens, dim),
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("width", [1, 31, 128, 129])
def test_kernel_equals_reference(sizes: Sizes, width: int) -> None:
    assert_same(assembly(sizes, "triton"), assembly(sizes, "reference"), pieces(sizes, width))


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_every_piece_has_a_gradient_even_if_no_patch_or_every_patch_is_masked(hidden: float) -> None:
    sizes = SIZES[1]
    inputs = pieces(sizes, 5)
    assert_same(assembly(sizes, "triton", hidden), assembly(sizes, "reference", hidden), inputs)
    _, dpatches, _, dmask_token, *_ = outputs_and_gradients(assembly(sizes, "triton", hidden), inputs)
    unused = dmask_token if hidden == 0 else dpatches
    assert not unused.any()


def test_pieces_that_are_not_contiguous_are_read_right() -> None:
    sizes = SIZES[1]

    def twisted(backend: Backend) -> Callable[..., Any]:
        whole = assembly(sizes, backend)
        return lambda *tensors: whole(*(tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for tensor in tensors))

    assert_same(twisted("triton"), assembly(sizes, "reference"), pieces(sizes, 7))


@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_gradients_of_the_reference_are_right(sizes: Sizes) -> None:
    inputs = [tensor.detach().double().requires_grad_() for tensor in pieces(sizes, 3)]
    assert torch.autograd.gradcheck(assembly(sizes, "reference"), inputs)


def test_a_row_is_its_piece_and_its_position() -> None:
    images = ImagePieces(
        patches=torch.tensor([[[1.0], [2.0]]]),
        cls_token=torch.tensor([3.0]),
        mask_token=torch.tensor([4.0]),
        positions=torch.tensor([[10.0], [20.0], [30.0]]),
    )
    texts = TextPieces(words=torch.tensor([[5.0], [6.0], [7.0]]), positions=torch.tensor([[100.0], [200.0]]))
    places, begins = torch.tensor([0, 1, 0]), torch.tensor([0, 2, 3], dtype=torch.int32)
    packed = assemble_tokens(images, texts, torch.tensor([[False, True]]), places, begins, "reference")
    assert packed.flatten().tolist() == [13, 21, 34, 105, 206, 107]
