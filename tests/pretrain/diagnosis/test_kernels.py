"""A micro-step of a tiny network with each implementation of the kernels. CPU, seconds."""

import pytest
import torch

from pretrain.diagnosis import kernels
from pretrain.diagnosis.kernels import micro_step, micro_steps


def test_plain_torch_runs_and_others_say_why_not() -> None:
    reference, apex = micro_steps(("reference", "apex"), "auto")
    assert (reference.level, apex.level) == ("ok", "ok")
    assert apex.text.startswith("not run: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_kernels_of_the_recipe_that_cannot_run_are_an_error() -> None:
    (found,) = micro_step("apex", is_chosen=True)
    assert found.level == "error" and "needs a GPU" in found.text and "set kernels to auto" in found.remedy


def test_every_parameter_is_part_of_the_comparison() -> None:
    found = kernels.losses_and_gradient("reference", torch.device("cpu"))
    assert found.isfinite().all() and (found[:4] > 0).all()


@pytest.mark.parametrize("kernel", ["reference", "triton"])
def test_kernels_that_raise_are_reported(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, device: torch.device) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    monkeypatch.setattr("model.kernels.backend.choose_backend", lambda choice, device: choice)
    monkeypatch.setattr(kernels, "losses_and_gradient", fail)
    (found,) = micro_step(kernel, is_chosen=False)  # type: ignore[arg-type]
    assert found.level == "warning" and "an illegal memory access" in found.text and found.remedy


def test_kernels_that_compute_something_else_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = {
        "reference": torch.ones(5),
        "triton": torch.tensor([1, 1, 1, 1, 1.1]),
        "apex": torch.full((5,), torch.nan),
    }
    monkeypatch.setattr("model.kernels.backend.choose_backend", lambda choice, device: choice)
    monkeypatch.setattr(kernels, "losses_and_gradient", lambda name, device: vectors[name])
    assert [one.level for one in micro_steps(("reference", "triton", "apex"), "triton")] == ["ok", "error", "warning"]


@pytest.mark.slow
def test_the_compiler_runs_a_whole_micro_step_if_the_recipe_asks_for_it() -> None:
    (function,), (whole,) = micro_step("compile", is_chosen=False), micro_step("compile", is_chosen=True)
    assert function.level == whole.level == "ok" and "within" in whole.text
