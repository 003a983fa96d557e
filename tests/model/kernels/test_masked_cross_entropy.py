import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.kernels import masked_cross_entropy as module
from model.kernels.masked_cross_entropy import masked_cross_entropy
from tests.support.kernels import DEVICE, assert_same, outputs_and_gradients, random_tensors
from tests.support.tiny import tiny_inputs, tiny_model, tiny_targets

DIM, CLASSES = 7, 37
CHUNK_ROWS = 4
ROWS = [0, 1, 3, 4, 5, 8, 13]
"""No rows, fewer than a chunk, one chunk, one row more, whole chunks, whole chunks and a rest."""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK_ROWS * CLASSES * 4)


def head_inputs(num_rows: int) -> list[Tensor]:
    return random_tensors(0, (num_rows, DIM), (CLASSES, DIM), (CLASSES,))


def random_labels(num_rows: int) -> Tensor:
    """Return random labels of which every third is ignored."""
    labels = torch.randint(CLASSES, (num_rows,), generator=torch.Generator().manual_seed(1))
    labels[1::3] = -100
    return labels.to(DEVICE)


def in_float64(labels: Tensor) -> Callable[..., Tensor]:
    return lambda *inputs: cross_entropy(linear(*(x.double() for x in inputs)), labels, reduction="none").float()


def losses(labels: Tensor) -> Callable[..., Tensor]:
    return lambda hidden, weight, bias: masked_cross_entropy(hidden, weight, bias, labels)


@pytest.mark.parametrize("num_rows", ROWS)
def test_one_chunk_equals_float64(num_rows: int) -> None:
    labels = random_labels(num_rows)
    assert_same(losses(labels), in_float64(labels), head_inputs(num_rows))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("num_rows", ROWS)
def test_many_chunks_equal_float64(num_rows: int) -> None:
    labels = random_labels(num_rows)
    assert_same(losses(labels), in_float64(labels), head_inputs(num_rows))


@pytest.mark.usefixtures("small_chunks")
def test_bfloat16_chunks_lose_no_more_than_one_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    num_rows = 100 * CHUNK_ROWS
    labels = torch.zeros(num_rows, dtype=torch.int64, device=DEVICE)  # so that gradients add up in one direction
    inputs = [tensor.detach().bfloat16().requires_grad_() for tensor in head_inputs(num_rows)]
    with torch.no_grad():
        inputs[0].copy_(inputs[0].abs())
    found = outputs_and_gradients(lambda *x: losses(labels)(*x).sum(), inputs)
    expected = outputs_and_gradients(lambda *x: in_float64(labels)(*x).sum(), inputs)
    for ours, exact in zip(found[2:], expected[2:], strict=True):  # of weight and bias
        assert float((ours - exact).norm() / exact.norm()) < 2**-7


class LiveColumns(TorchDispatchMode):
    """Counts the bytes of live tensors with `num_columns` columns, except for views and in-place results."""

    def __init__(self, num_columns: int):
        super().__init__()
        self.num_columns, self.live, self.peak, self.largest = num_columns, 0, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = function(*args, **(kwargs or {}))
        inputs = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for output in tree_leaves(outputs):
            if not isinstance(output, Tensor) or output.shape[-1:] != (self.num_columns,) or output.ndim != 2:
                continue
            storage = output.untyped_storage()
            if id(storage) not in inputs:
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return outputs

    def _add(self, num_bytes: int) -> None:
        self.live += num_bytes
        self.peak = max(self.peak, self.live)
        self.largest = max(self.largest, num_bytes)


def live_logits(num_rows: int, dtype: torch.dtype) -> LiveColumns:
    """Return the bytes of logits alive during a forward and a backward on `num_rows` rows."""
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in head_inputs(num_rows)]
    labels = random_labels(num_rows)
    with LiveColumns(CLASSES) as logits:
        torch.autograd.grad(losses(labels)(*inputs).sum(), inputs)
    assert logits.live == 0
    return logits


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_never_held_all_at_once(dtype: torch.dtype) -> None:
    one, many = live_logits(CHUNK_ROWS, dtype), live_logits(10 * CHUNK_ROWS + 1, dtype)
    assert one.largest == many.largest == CHUNK_ROWS * CLASSES * 4
    assert many.peak <= 4 * CHUNK_ROWS * CLASSES * 4


def test_the_networks_losses_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_model(), tiny_inputs(2, 3, 4)
    targets, parameters = tiny_targets(inputs), list(model.parameters())
    whole = model(inputs, targets)
    expected = torch.autograd.grad(whole.sum(), parameters)
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * 50 * 4)
    chunked = model(inputs, targets)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(torch.autograd.grad(chunked.sum(), parameters), expected)
