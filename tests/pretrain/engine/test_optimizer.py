"""AdamW of each implementation: the same steps as torch's, and each resumes with the state of the others."""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.optimizer import (
    Implementation,
    adopt_state,
    build_optimizer,
    choose_implementation,
    group_settings,
    parameter_groups,
)
from pretrain.engine.schedule import set_learning_rate

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = OptimizerConfig(peak_lr=0.01, eps=1e-3, weight_decay=0.5)  # eps and decay large enough to matter
SIZES = (1, 17, 64, 1031)
compiled = pytest.param("deepspeed", marks=pytest.mark.slow)  # takes minutes the first time

APEX = """
import torch
class FusedAdam(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True,
                 weight_decay=0.0, amsgrad=False, set_grad_none=True, capturable=False, master_weights=False):
        super().__init__(params, dict(lr=lr, bias_correction=bias_correction, betas=betas, eps=eps,
                                      weight_decay=weight_decay))
        assert adam_w_mode and bias_correction
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if not group["params"]:
                continue
            group["step"] = group["step"] + 1 if "step" in group else 1
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["exp_avg"].lerp_(p.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                m = state["exp_avg"] / (1 - beta1 ** group["step"])
                v = state["exp_avg_sq"] / (1 - beta2 ** group["step"])
                p.sub_(group["lr"] * (m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p))
"""
"""Stand-in for NVIDIA apex, with its behavior: moments by parameter, one step count per group."""


@pytest.fixture(autouse=True)
def _apex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "apex"
    (folder / "optimizers").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "optimizers" / "__init__.py").write_text(APEX)
    (folder / "amp_C.so").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in SIZES]


def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    decays = ((parameters[:2], 0.5), (parameters[2:], 0.0))
    return [{"params": part, "weight_decay": decay, "lr_scale": 1.0} for part, decay in decays]


def take_steps(optimizer: Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    """Update one parameter after the other, as ZeRO-3 does with the partitions of a group."""
    owners = [group["params"] for group in optimizer.param_groups]
    for step in steps:
        for group in optimizer.param_groups:
            group["params"] = []
        set_learning_rate(optimizer, 0.01 / (1 + step))
        for number, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(100 * step + number)
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.01
            group = optimizer.param_groups[number >= 2]
            group["params"] = [parameter]
            optimizer.step()
            group["params"] = []
    for group, own in zip(optimizer.param_groups, owners, strict=True):
        group["params"] = own


def after(make: Callable[[list[dict[str, Any]]], Optimizer], num_steps: int) -> tuple[list[nn.Parameter], Optimizer]:
    own = parameters()
    optimizer = make(groups(own))
    take_steps(optimizer, own, range(num_steps))
    return own, optimizer


def of(implementation: Implementation) -> Callable[[list[dict[str, Any]]], Optimizer]:
    return lambda groups: build_optimizer(groups, CONFIG, implementation, CPU)


def plain(groups: list[dict[str, Any]]) -> Optimizer:
    """Return torch's AdamW, operation by operation."""
    betas = (CONFIG.beta1, CONFIG.beta2)
    return torch.optim.AdamW(groups, lr=CONFIG.peak_lr, betas=betas, eps=CONFIG.eps, foreach=False, fused=False)


def assert_same(found: list[nn.Parameter], expected: list[nn.Parameter]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", ["torch", "apex", compiled])
def test_every_implementation_takes_the_steps_of_plain_adamw(implementation: Implementation) -> None:
    assert_same(after(of(implementation), 6)[0], after(plain, 6)[0])


@pytest.mark.parametrize("saved_by", ["plain", "torch", "apex", compiled])
@pytest.mark.parametrize("loaded_by", ["torch", "apex", compiled])
def test_each_resumes_with_the_state_of_the_others(saved_by: str, loaded_by: Implementation) -> None:
    own, saver = after(plain if saved_by == "plain" else of(saved_by), 3)  # type: ignore[arg-type]
    optimizer = of(loaded_by)(groups(own))
    settings = group_settings(optimizer)
    optimizer.load_state_dict(copy.deepcopy(saver.state_dict()))
    adopt_state(optimizer, settings, 3)
    assert group_settings(optimizer) == settings
    assert all(isinstance(state["exp_avg"], Tensor) for state in optimizer.state.values())
    take_steps(optimizer, own, range(3, 6))
    assert_same(own, after(plain, 6)[0])


def names_of(model: nn.Module, groups: list[dict[str, Any]]) -> list[tuple[list[str], float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [([names[p] for p in group["params"]], group["weight_decay"], group["lr_scale"]) for group in groups]


def test_a_run_without_scales_has_two_groups_and_one_with_layer_wise_decay_two_for_each_scale() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert names_of(model, parameter_groups(model, 0.5, ("2.weight",))) == [
        (["0.weight"], 0.5, 1.0),
        (["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"], 0.0, 1.0),
    ]
    assert names_of(model, parameter_groups(model, 0.5, (), lambda name: 0.5 ** (2 - int(name[0])))) == [
        (["0.weight"], 0.5, 0.25),
        (["0.bias"], 0.0, 0.25),
        (["1.weight", "1.bias"], 0.0, 0.5),
        (["2.weight"], 0.5, 1.0),
        (["2.bias"], 0.0, 1.0),
    ]


@pytest.mark.parametrize("implementation", ["torch", "apex", compiled])
def test_state_of_a_checkpoint_without_scales_does_not_remove_them(implementation: Implementation) -> None:
    own, saver = after(of(implementation), 3)
    saved = copy.deepcopy(saver.state_dict())
    for group in saved["param_groups"]:
        del group["lr_scale"]  # older checkpoints have none
    scaled = groups(own)
    scaled[1]["lr_scale"] = 0.25
    optimizer = of(implementation)(scaled)
    settings = group_settings(optimizer)
    optimizer.load_state_dict(saved)
    adopt_state(optimizer, settings, 3)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.125]


def test_auto_is_torch_on_a_cpu_and_apex_on_a_gpu_that_has_it(tmp_path: Path) -> None:
    assert choose_implementation(CONFIG, CPU) == "torch"
    assert choose_implementation(CONFIG, CUDA) == "apex"
    (tmp_path / "apex" / "amp_C.so").unlink()
    assert choose_implementation(CONFIG, CUDA) == "torch"


def test_apex_that_cannot_run_is_refused(tmp_path: Path) -> None:
    apex = replace(CONFIG, implementation="apex")
    assert choose_implementation(apex, CUDA) == "apex"
    with pytest.raises(ValueError, match="needs a GPU that holds the optimizer state; set it to auto or torch"):
        choose_implementation(apex, CPU)
    (tmp_path / "apex" / "amp_C.so").unlink()
    with pytest.raises(ValueError, match="is apex, but NVIDIA apex is installed without its extension amp_C; build"):
        choose_implementation(apex, CUDA)
    (tmp_path / "apex" / "optimizers" / "__init__.py").unlink()
    (tmp_path / "apex" / "optimizers").rmdir()  # like the other project of that name
    with pytest.raises(ValueError, match="another project of that name; uninstall it and build .*, or set it to auto"):
        choose_implementation(apex, CUDA)
