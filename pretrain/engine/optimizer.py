"""AdamW by the fastest implementation that is installed.

All compute the same formula with the same two moments (Loshchilov and Hutter, "Decoupled Weight Decay Regularization";
bias correction, eps outside the root), so a run may be resumed with another one.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import torch
from deepspeed.ops import op_builder
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import cpp_extension

from model.kernels.nvidia_apex import missing_of_apex
from pretrain.config.run_config import OptimizerConfig

Implementation = Literal["torch", "deepspeed", "apex"]
"""The package whose AdamW is used."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of the moments in the state of every implementation."""
ScaleOfName = Callable[[str], float]
"""A parameter's share of the learning rate, by its name."""


def unscaled(name: str) -> float:
    """Give every parameter the whole learning rate."""
    return 1.0


def parameter_groups(
    model: nn.Module, weight_decay: float, undecayed: tuple[str, ...], lr_scale: ScaleOfName = unscaled
) -> list[dict[str, Any]]:
    """Return the optimizer's groups, one per `lr_scale` and weight decay.

    undecayed: ends of the names of parameters without weight decay, beside biases and norms. lr_scale: what
    `set_learning_rate` multiplies the learning rate by, such as layer-wise decay. The order of the groups is part of a
    checkpoint's layout: by scale, decayed before undecayed.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_exempt = parameter.ndim <= 1 or name.endswith(undecayed)
        members.setdefault((lr_scale(name), is_exempt), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if is_exempt else weight_decay, "lr_scale": scale}
        for (scale, is_exempt), parameters in sorted(members.items(), key=lambda group: group[0])
    ]


def choose_implementation(config: OptimizerConfig, state_device: torch.device) -> Implementation:
    """Return the implementation that a config asks for.

    auto on a GPU: NVIDIA apex's if it is installed, else DeepSpeed's if it was built beforehand, else torch's; on a CPU
    torch's. Nothing is compiled unless `deepspeed` is asked for. state_device: the device of the moments, the CPU under
    offload_optimizer. Raises ValueError if the one asked for cannot run.
    """
    choice, is_gpu = config.implementation, state_device.type == "cuda"
    if choice == "auto":
        if is_gpu and _missing_of_fused_adam() is None:
            return "apex"
        return "deepspeed" if is_gpu and _is_built(op_builder.FusedAdamBuilder()) else "torch"
    if choice == "apex":
        if not is_gpu:
            raise ValueError(
                "optimizer.implementation is apex, which needs a GPU that holds the optimizer state; set it to auto or "
                "torch"
            )
        if (missing := _missing_of_fused_adam()) is not None:
            raise ValueError(f"optimizer.implementation is apex, but {missing}, or set it to auto or torch")
    if choice == "deepspeed":
        builder = (op_builder.FusedAdamBuilder if is_gpu else op_builder.CPUAdamBuilder)()
        if not (_is_built(builder) or (builder.is_compatible() and (not is_gpu or cpp_extension.CUDA_HOME))):
            raise ValueError(
                f"optimizer.implementation is deepspeed, whose {builder.NAME} cannot be built here; "
                "set it to auto or torch"
            )
    return choice


def build_optimizer(
    groups: list[dict[str, Any]], config: OptimizerConfig, implementation: Implementation, state_device: torch.device
) -> Optimizer:
    """Return AdamW over parameter groups, whose parameters DeepSpeed then replaces by its partitions."""
    settings: dict[str, Any] = {"lr": config.peak_lr, "betas": (config.beta1, config.beta2), "eps": config.eps}
    if implementation == "apex":
        optimizer = importlib.import_module("apex.optimizers").FusedAdam(groups, adam_w_mode=True, **settings)
        _count_steps_by_parameter(optimizer)
        return optimizer
    if implementation == "deepspeed":
        adam = importlib.import_module("deepspeed.ops.adam")
        if state_device.type == "cuda":
            return adam.FusedAdam(groups, adam_w_mode=True, **settings)
        return adam.DeepSpeedCPUAdam(groups, adamw_mode=True, **settings)
    return torch.optim.AdamW(groups, fused=True, **settings)


def describe_optimizer(implementation: Implementation, state_device: torch.device) -> str:
    """Return the line that is printed when a run starts."""
    where = "GPU" if state_device.type == "cuda" else "CPU"
    return f"optimizer: AdamW of {implementation}, fused, on the {where}"


def step_counter(optimizer: Optimizer, partition: Tensor, num_updates: int) -> Tensor | int:
    """Return the state `step` of a partition after `num_updates` updates, in the form that this optimizer keeps."""
    if isinstance(optimizer, torch.optim.AdamW):
        return torch.tensor(float(num_updates), device=partition.device)
    return num_updates


def empty_state(optimizer: Optimizer, partition: Tensor, num_updates: int) -> dict[str, Any]:
    """Return the state of a partition with moments of zero, as this optimizer makes it itself at its first step."""
    moments = {name: torch.zeros_like(partition) for name in MOMENTS}
    return {"step": step_counter(optimizer, partition, num_updates), **moments}


def float32_partitions(optimizer: Any) -> list[Tensor]:
    """Return this rank's part of each parameter group: the tensors that torch's optimizer has state for.

    optimizer: DeepSpeed's.
    """
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):  # of ZeRO-3, of ZeRO-1 and 2, of ZeRO-1 with bfloat16
            return list(getattr(optimizer, name))
    raise AssertionError(type(optimizer))


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each parameter group."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def adopt_state(optimizer: Optimizer, settings: list[dict[str, Any]], num_updates: int) -> None:
    """Turn loaded state into this optimizer's, whichever implementation saved it.

    settings: `group_settings` from before the state was loaded. Loading replaces them by the checkpoint's, which are
    those of the implementation that saved it, and lack `lr_scale` if it is older than that.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        parameters = group["params"]
        group.clear()
        group.update(own, params=parameters)
    for partition, state in optimizer.state.items():
        if state:
            state["step"] = step_counter(optimizer, partition, num_updates)


def _count_steps_by_parameter(optimizer: Optimizer) -> None:
    """Keep apex's count of steps per parameter: it counts per group, but ZeRO-3 steps partitions one by one."""

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"][:1]:
                group["step"] = optimizer.state[parameter].get("step", 0)

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["step"] = group["step"]

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _is_built(builder: Any) -> bool:
    """Return whether an operation came compiled with DeepSpeed's installation (DS_BUILD_FUSED_ADAM=1)."""
    return importlib.util.find_spec(builder.absolute_name()) is not None


def _missing_of_fused_adam() -> str | None:
    return missing_of_apex("optimizers", "amp_C")
