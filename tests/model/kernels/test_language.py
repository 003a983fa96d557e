"""Triton's stand-in and the sizes of tiles. CPU, seconds."""

import pytest
import torch

from model.kernels import language
from model.kernels.language import block_size, jit, samples_per_program


@pytest.mark.parametrize(("width", "expected"), [(1, 1), (2, 2), (3, 4), (128, 128), (129, 256)])
def test_a_block_is_the_next_power_of_two(width: int, expected: int) -> None:
    assert block_size(width) == expected


def test_a_program_has_one_sample_and_in_the_interpreter_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "IS_INTERPRETED", False)
    assert samples_per_program(100, 64) == 1
    monkeypatch.setattr(language, "IS_INTERPRETED", True)
    assert samples_per_program(100, 64) == 128
    assert samples_per_program(100, language.INTERPRETED_ELEMENTS) == 1


def test_without_triton_a_launch_fails_except_on_the_meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "triton", None)
    kernel = jit(lambda x_ptr: None)
    kernel[(1,)](torch.zeros(3, device="meta"))
    with pytest.raises(AssertionError, match="kernels need Triton"):
        kernel[(1,)](torch.zeros(3))
