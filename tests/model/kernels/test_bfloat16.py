"""On a GPU, in bfloat16: no operation is further from float32 than twice plain torch's own bfloat16."""

import pytest
import torch
from torch import Tensor

from tests.benchmarks.kernel_operations import NAMES, Size, head, operations
from tests.support.kernels import DEVICE, outputs_and_gradients

SIZES = [Size("small", 768, 3072, 197, 2, vocab_size=5000), Size("giant", 1408, 6144, 257, 1, vocab_size=5000)]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).abs().max())


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("name", [*NAMES, "head"])
def test_kernels_are_as_exact_as_plain_torch(size: Size, name: str) -> None:
    (operation,) = (found for found in [*operations(size, DEVICE), head(size, DEVICE)] if found.name == name)
    exact = outputs_and_gradients(operation.plain, [x.detach().float().requires_grad_() for x in operation.inputs])
    plain = outputs_and_gradients(operation.plain, operation.inputs)
    ours = outputs_and_gradients(operation.backend("triton"), operation.inputs)
    for number, (a, b, c) in enumerate(zip(ours, plain, exact, strict=True)):
        assert error(a, c) <= 2 * error(b, c) + 1e-3 * float(c.abs().max()), f"tensor {number}"


def test_every_operation_that_is_measured_is_tested() -> None:
    size = Size("tiny", 32, 64, 5, 1, caption_tokens=3, text_tokens=9, vocab_size=50)
    cpu = torch.device("cpu")
    assert [operation.name for operation in [*operations(size, cpu), head(size, cpu)]] == [*NAMES, "head"]
