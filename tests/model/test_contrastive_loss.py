"""Contrastive losses in chunks and by rows against autograd on the whole matrix of logits. CPU, seconds."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from model.contrastive_loss import PairNumbers, row_statistics, sigmoid_rows, softmax_gradient

NUM_PAIRS, DIM = 13, 7
SCALE, BIAS = 9.0, -3.0
CHUNKS = [1, 3 * NUM_PAIRS, 5 * NUM_PAIRS + 2, 1 << 24]
"""Logits per chunk: less than a row, three rows, five, all of them."""
PARTS = [[13], [4, 9], [1, 2, 10]]
"""Rows of each rank."""


def features(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(NUM_PAIRS, DIM, generator=generator, dtype=torch.float64), dim=1)


IMAGES, TEXTS = features(1), features(2)
EQUAL = torch.tensor([5, -1, 5, 7, 8, -1, 5, 9, 10, 11, 5, 12, 8])
"""Numbers of pairs of which some have the same text, in other rows, chunks and ranks too."""


def is_compared(numbers: Tensor | None) -> Tensor:
    """Return which texts an image is compared with, (B, B) bool: its own and those with other numbers."""
    own = torch.eye(NUM_PAIRS, dtype=torch.bool)
    return torch.ones_like(own) if numbers is None else own | (numbers[:, None] != numbers)


def whole(loss: str, numbers: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its gradients by autograd."""
    leaves = {
        "images": IMAGES.clone(),
        "texts": TEXTS.clone(),
        "scale": torch.tensor(SCALE, dtype=torch.float64),
        "bias": torch.tensor(BIAS, dtype=torch.float64),
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    logits, right = leaves["scale"] * leaves["images"] @ leaves["texts"].T, torch.arange(NUM_PAIRS)
    compared = is_compared(numbers)
    if loss == "softmax":
        logits = logits.masked_fill(~compared, -math.inf)
        value = (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
    else:
        signs = 2 * torch.eye(NUM_PAIRS) - 1
        value = -logsigmoid(signs * (logits + leaves["bias"]))[compared].sum() / NUM_PAIRS
    value.backward()
    return value.detach(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def starts(parts: list[int]) -> list[int]:
    return [sum(parts[:number]) for number in range(len(parts))]


def numbers_of(numbers: Tensor | None, parts: list[int]) -> list[PairNumbers | None]:
    """Return what each rank is given."""
    return [None] * len(parts) if numbers is None else [PairNumbers(part, numbers) for part in numbers.split(parts)]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("numbers", [None, EQUAL], ids=["all compared", "equal ignored"])
def test_softmax_by_rows_is_that_of_the_whole_matrix(parts: list[int], chunk: int, numbers: Tensor | None) -> None:
    value, gradients = whole("softmax", numbers)
    given = numbers_of(numbers, parts)
    scale = torch.tensor(SCALE, dtype=torch.float64)
    sides = {"images": (IMAGES, TEXTS), "texts": (TEXTS, IMAGES)}
    sums, positives = {}, torch.zeros((), dtype=torch.float64)
    for name, (rows, columns) in sides.items():
        found = [
            row_statistics(part, columns, first, scale, chunk, of_rank)
            for part, first, of_rank in zip(rows.split(parts), starts(parts), given, strict=True)
        ]
        sums[name] = torch.cat([each.logsumexp for each in found])
        positives = torch.cat([each.positives for each in found])
        logits = (SCALE * rows @ columns.T).masked_fill(~is_compared(numbers), -math.inf)
        expected = logits.argmax(1) == torch.arange(NUM_PAIRS)
        assert torch.equal(torch.cat([each.are_right for each in found]), expected)
    loss = (sums["images"] + sums["texts"] - 2 * positives).sum() / (2 * NUM_PAIRS)
    torch.testing.assert_close(loss, value)
    for name, (rows, columns) in sides.items():
        own, other = sums[name], sums["texts" if name == "images" else "images"]
        gradient = torch.cat(
            [
                softmax_gradient(part, columns, first, scale, own_part, other, chunk, of_rank)
                for part, first, own_part, of_rank in zip(
                    rows.split(parts), starts(parts), own.split(parts), given, strict=True
                )
            ]
        ) / (2 * NUM_PAIRS)
        torch.testing.assert_close(gradient, gradients[name])
        # the gradient with respect to the logarithm of the scale is a by-product
        torch.testing.assert_close((rows * gradient).sum(), SCALE * gradients["scale"])


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("numbers", [None, EQUAL], ids=["all compared", "equal ignored"])
def test_sigmoid_by_rows_is_that_of_the_whole_matrix(parts: list[int], chunk: int, numbers: Tensor | None) -> None:
    value, gradients = whole("sigmoid", numbers)
    given = numbers_of(numbers, parts)
    scale, bias = torch.tensor(SCALE, dtype=torch.float64), torch.tensor(BIAS, dtype=torch.float64)
    for name, rows, columns in (("images", IMAGES, TEXTS), ("texts", TEXTS, IMAGES)):
        found = [
            sigmoid_rows(part, columns, first, scale, bias, chunk, of_rank)
            for part, first, of_rank in zip(rows.split(parts), starts(parts), given, strict=True)
        ]
        torch.testing.assert_close(torch.stack([each.loss for each in found]).sum() / NUM_PAIRS, value)
        gradient = torch.cat([each.gradient for each in found]) / NUM_PAIRS
        torch.testing.assert_close(gradient, gradients[name])
        torch.testing.assert_close((rows * gradient).sum(), SCALE * gradients["scale"])
        of_bias = torch.stack([each.bias_gradient for each in found]).sum() / NUM_PAIRS
        torch.testing.assert_close(of_bias, gradients["bias"])


def test_images_of_one_class_do_not_push_its_texts_away() -> None:
    """Two images of a class with one text: each is as near to the other's as to its own, which is no mistake."""
    images = texts = torch.eye(3)[[0, 0, 1]]
    scale, numbers = torch.tensor(50.0), torch.tensor([4, 4, 6])
    found = row_statistics(images, texts, 0, scale, numbers=PairNumbers(numbers, numbers))
    assert found.are_right.all() and (found.logsumexp - found.positives).max() < 1e-6
    compared = row_statistics(images, texts, 0, scale)
    assert compared.are_right.tolist() == [False, False, True]
    assert (compared.logsumexp - compared.positives)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_equal_logits_are_not_right() -> None:
    """Features that have collapsed to one must not look like perfect retrieval."""
    same, scale = torch.ones(4, 2), torch.tensor(1.0)
    assert not row_statistics(same, same, 0, scale).are_right.any()
    assert not sigmoid_rows(same, same, 0, scale, scale).are_right.any()
    assert row_statistics(torch.eye(4), torch.eye(4), 0, scale).are_right.all()


def test_no_more_logits_exist_at_once_than_a_chunk_has() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    rows, columns = torch.randn(64, 4), torch.randn(256, 4)
    scale, chunk = torch.tensor(1.0), 8 * 256
    numbers = PairNumbers(torch.arange(64) % 9, torch.arange(256) % 9)
    with Watch():
        statistics = row_statistics(rows, columns, 64, scale, chunk, numbers)
        softmax_gradient(rows, columns, 64, scale, statistics.logsumexp, torch.zeros(256), chunk, numbers)
        sigmoid_rows(rows, columns, 64, scale, scale, chunk, numbers)
    assert largest == chunk < 64 * 256
