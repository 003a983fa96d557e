"""The choice between versions of FlashAttention, by a third version that is torch's own attention. CPU, a second."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from model import flash_attention
from model.flash_attention import _activation_error, _switch, activate_flash_attention
from tests.support.kernels import DEVICE

CPU = torch.device("cpu")


class Handle:
    """What torch keeps of an activated implementation."""

    def __init__(self) -> None:
        self.is_removed = False

    def remove(self) -> None:
        self.is_removed = True


@pytest.fixture
def handle() -> Iterator[Handle]:
    """Register an implementation that changes nothing under the name of the third version."""
    attention = torch.nn.attention
    registry = attention._registry._FLASH_ATTENTION_IMPLS  # torch has no public way to register the former one again
    former, handle = registry["FA3"], Handle()
    attention.register_flash_attention_impl("FA3", register_fn=lambda: handle)
    yield handle
    attention.restore_flash_attention_impl(_raise_warn=False)
    registry["FA3"] = former


def test_torch_can_change_versions() -> None:
    switch = _switch()
    assert switch is not None and "FA3" in switch.list_flash_attention_impls()


def test_without_a_gpu_torchs_attention_runs_and_the_third_version_is_refused() -> None:
    assert activate_flash_attention("auto", CPU) == activate_flash_attention("2", CPU) == "torch's attention"
    with pytest.raises(ValueError, match="flash_attention is 3, but the device is no GPU; set it to auto or 2"):
        activate_flash_attention("3", CPU)


def test_a_version_that_computes_the_same_stays_active(handle: Handle) -> None:
    assert _activation_error(CPU) is None
    assert torch.nn.attention.current_flash_attention_impl() == "FA3" and not handle.is_removed


def test_a_version_that_computes_something_else_is_not_used(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_attention, "TOLERANCE", 0.0)
    error = _activation_error(CPU)
    assert error is not None and error.startswith("its results differ from float32 by")
    assert torch.nn.attention.current_flash_attention_impl() is None and handle.is_removed


def test_gradients_that_are_not_numbers_are_a_difference(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    right = flash_attention._attention_and_gradient

    def wrong(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attended, gradient = right(values)
        return attended, gradient if values.dtype == torch.float32 else torch.full_like(gradient, torch.nan)

    monkeypatch.setattr(flash_attention, "_attention_and_gradient", wrong)
    assert _activation_error(CPU) == "its results differ from float32 by nan"
    assert torch.nn.attention.current_flash_attention_impl() is None and handle.is_removed


@pytest.mark.skipif(find_spec(flash_attention.PACKAGE) is not None, reason="FlashAttention 3 is installed")
def test_a_package_that_is_missing_or_fails_is_reported() -> None:
    error = _activation_error(CPU)
    assert error == "ModuleNotFoundError: No module named 'flash_attn_interface'"
    assert torch.nn.attention.current_flash_attention_impl() is None


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
def test_a_gpu_runs_the_version_that_is_named() -> None:
    assert activate_flash_attention("2", DEVICE) == "FlashAttention 2"
    named = activate_flash_attention("auto", DEVICE)
    is_third = torch.nn.attention.current_flash_attention_impl() == "FA3"
    assert named == "FlashAttention 3" if is_third else named.startswith("FlashAttention 2 (not 3: ")
