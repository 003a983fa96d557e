from functools import partial

import pytest
import torch
from torch import Tensor

from model.expert_rows import ExpertRows
from model.kernels.expert_activation import expert_activation, gelu_and_slope
from model.kernels.language import jit, tl
from tests.support.kernels import DEVICE, SIZES, assert_same, outputs_and_gradients, random_tensors

pytest.importorskip("triton", reason="needs Triton: make dev installs it")
# Triton's interpreter computes in numpy, which warns where a GPU has infinities and NaN
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
BLOCK = 1 << 16


@jit
def _gelu_kernel(a_ptr, gelu_ptr, slope_ptr, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gelu, slope = gelu_and_slope(tl.load(a_ptr + places, mask=places < count, other=0.0))
    tl.store(gelu_ptr + places, gelu, mask=places < count)
    tl.store(slope_ptr + places, slope, mask=places < count)


def our_gelu(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return gelu(a) and its derivative by the function that both kernels call."""
    gelu, slope = torch.full_like(a, torch.nan), torch.full_like(a, torch.nan)
    _gelu_kernel[(-(-len(a) // BLOCK),)](a, gelu, slope, len(a), BLOCK=BLOCK)
    return gelu, slope


def torchs_gelu(a: Tensor) -> tuple[Tensor, Tensor]:
    a = a.detach().requires_grad_()
    gelu = torch.nn.functional.gelu(a)
    return gelu.detach(), torch.autograd.grad(gelu.sum(), a)[0]


def formula_in_torch(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same by erf, as torch computes it on a GPU."""
    cdf = 0.5 * (1.0 + torch.erf(a * 0.7071067811865476))
    return a * cdf, cdf + a * torch.exp(-0.5 * a * a) * 0.3989422804014327


def exact_gelu(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same in float64. erfc loses no digits where 1 + erf would be near 0."""
    a = a.double()
    cdf = 0.5 * torch.erfc(-a * 0.5**0.5)
    return a * cdf, cdf + a * torch.exp(-0.5 * a * a) * 0.3989422804014327


@pytest.mark.parametrize("which", [0, 1], ids=["gelu", "slope"])
def test_gelu_is_as_near_to_float64_as_plain_torch(which: int) -> None:
    # intervals of length 1 around 0, beyond which the value is a or 0, and every power of two that float32 has
    grids = [torch.linspace(first, first + 1, 4097, device=DEVICE) for first in range(-11, 11)]
    powers = torch.exp2(torch.arange(-149, 128, dtype=torch.float64)).float().to(DEVICE)
    for a in [*grids, powers, -powers]:
        exact = exact_gelu(a)[which]
        ours, plain, by_erf = (
            float((f(a)[which].double() - exact).abs().max()) for f in (our_gelu, torchs_gelu, formula_in_torch)
        )
        # how near torch comes depends on the vector instructions of the machine
        rounding = 4 * torch.finfo(torch.float32).eps * float(exact.abs().max())
        assert ours <= max(plain, by_erf, rounding), f"from {float(a[0])}"


def test_gelu_keeps_signs_of_zero_and_nan_and_is_finite_at_the_extremes() -> None:
    largest = torch.finfo(torch.float32).max
    gelu, slope = our_gelu(torch.tensor([0.0, -0.0, torch.nan, largest, -largest, 1e-45, -1e-45], device=DEVICE))
    torch.testing.assert_close(gelu.cpu(), torch.tensor([0.0, 0.0, torch.nan, largest, 0.0, 0.0, 0.0]), equal_nan=True)
    assert gelu.cpu().signbit().tolist()[:2] == [False, True]
    torch.testing.assert_close(slope.cpu(), torch.tensor([0.5, 0.5, torch.nan, 1, 0, 0.5, 0.5]), equal_nan=True)


def test_a_row_that_is_not_finite_becomes_nan_and_leaves_the_others_alone() -> None:
    rows = ExpertRows((3,), (0,))
    inputs = random_tensors(2, (3, 31), *[(1, 31)] * 3)
    with torch.no_grad():
        inputs[0][1, 5] = torch.inf
    for backend in ("triton", "reference"):
        y, dh, *_ = outputs_and_gradients(partial(expert_activation, rows=rows, backend=backend), inputs)
        assert y[1].isnan().all() and y[[0, 2]].isfinite().all()
        assert dh[1].isnan().all() and dh[[0, 2]].isfinite().all()


@pytest.mark.parametrize(("rows", "width"), SIZES, ids=str)
def test_kernel_equals_reference(rows: ExpertRows, width: int) -> None:
    inputs = random_tensors(0, (rows.num_rows, width), *[(rows.num_experts, width)] * 3)
    assert_same(
        partial(expert_activation, rows=rows, backend="triton"),
        partial(expert_activation, rows=rows, backend="reference"),
        inputs,
    )


def test_gradients_of_the_reference_are_right() -> None:
    rows = ExpertRows((2, 2, 4, 5), (0, 1, 1, 2))
    inputs = [tensor.detach().double().requires_grad_() for tensor in random_tensors(1, (5, 7), *[(3, 7)] * 3)]
    assert torch.autograd.gradcheck(partial(expert_activation, rows=rows, backend="reference"), inputs)
