"""The DeepSpeed engine: where recipe and memory configuration are merged, and where it is built."""

import os
import warnings
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param, set_z3_leaf_modules
from torch import nn

from pretrain.config.run_config import RunConfig
from pretrain.engine.gather_order import order_gathers
from pretrain.engine.memory_config import check_memory_config
from pretrain.engine.optimizer import (
    ScaleOfName,
    build_optimizer,
    choose_implementation,
    describe_optimizer,
    parameter_groups,
    unscaled,
)
from pretrain.survival.agreement import FatalRunError, join_hosts, met_by_all
from pretrain.survival.console import say
from pretrain.survival.meeting import meet
from pretrain.survival.ports import free_port

COLLECTIVE_MARGIN_SECONDS = 300
"""How much longer a collective waits than the watchdog, whose sentence names the rank that is lost."""


def init_distributed(hang_seconds: float) -> torch.device:
    """Join the process group of the launcher's environment, alone if there is none; return this rank's device.

    Ends the process with a sentence if the ranks cannot meet.
    """
    for name, alone in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, alone)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(free_port()) if os.environ["WORLD_SIZE"] == "1" else "29500"
    # DeepSpeed calls collectives by names that torch 2.13 deprecates
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    # DeepSpeed would compile its shared-memory all-reduce here, for minutes; only its inference code uses it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    timeout = timedelta(seconds=hang_seconds + COLLECTIVE_MARGIN_SECONDS)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = meet(rank, world_size, timeout)
    backend = get_accelerator().communication_backend_name()
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    deepspeed.init_distributed(timeout=timeout, auto_mpi_discovery=False, verbose=False)  # adopts this group
    join_hosts(timeout)
    if torch.cuda.is_available():
        local_rank = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    if "OMP_NUM_THREADS" not in os.environ:  # without it every rank would use every core
        ranks_here = int(os.environ.get("LOCAL_SIZE", os.environ["WORLD_SIZE"]))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    return torch.device("cpu")


def merged_deepspeed_config(
    config: RunConfig, memory_config: dict[str, Any], world_size: int, bfloat16_weights: bool = True
) -> dict[str, Any]:
    """Return DeepSpeed's configuration: the JSON on memory and communication, with the recipe's batch and precision.

    bfloat16_weights: whether precision bfloat16 holds the weights in bfloat16 too.
    Raises ValueError if the JSON holds a key that the recipe owns, or if the batch does not divide.
    """
    check_memory_config(config, memory_config, world_size)
    choose_implementation(config.optimizer, state_device(memory_config))  # raises for mistakes
    return {
        **memory_config,
        "train_batch_size": config.samples_per_step.total,
        "train_micro_batch_size_per_gpu": config.micro_batch(world_size).total,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": config.optimizer.gradient_clip,
        # the check makes DeepSpeed skip a step, on all ranks, if a gradient of any rank is not finite
        "bf16": {
            "enabled": bfloat16_weights and config.precision == "bfloat16",
            "check_grad_overflow": True,
        },
        "zero_allow_untested_optimizer": True,  # build_engine passes it one
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,  # run/speed.py prints
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice per micro-step
    }


def check_accepted(deepspeed_config: dict[str, Any], world_size: int | None = None) -> None:
    """Raise ValueError if DeepSpeed refuses a configuration, before anything is built.

    world_size: the number of ranks that it is for, which a dry run only plans; None: those of this run.
    """
    if world_size is not None:  # DeepSpeed multiplies by the ranks that are there
        ranks_here = dist.get_world_size() if dist.is_initialized() else 1
        batch = deepspeed_config["train_batch_size"] // world_size * ranks_here
        deepspeed_config = {**deepspeed_config, "train_batch_size": batch}
    try:
        DeepSpeedConfig(deepspeed_config)
    except Exception as error:  # assertions, its own errors, pydantic's
        raise ValueError(f"DeepSpeed refuses the configuration: {' '.join(str(error).split())}") from error


def build_engine(
    model: nn.Module,
    config: RunConfig,
    deepspeed_config: dict[str, Any],
    leaf_modules: tuple[type[nn.Module], ...],
    undecayed: tuple[str, ...],
    lr_scale: ScaleOfName = unscaled,
) -> deepspeed.DeepSpeedEngine:
    """Put the model under DeepSpeed, with float32 weights that are exactly those it comes with.

    leaf_modules: ZeRO-3 gathers each as one piece. undecayed, lr_scale: see `parameter_groups`.
    Raises FatalRunError if DeepSpeed refuses the configuration, or is of a version whose gathers cannot be ordered.
    """
    # DeepSpeed rounds the weights to bfloat16 first and makes its float32 copy from those, so the given ones are kept
    # and put back: a checkpoint's or initial weights start a run exactly
    is_rounded = deepspeed_config["bf16"]["enabled"]
    given = {name: p.detach().clone() for name, p in model.named_parameters()} if is_rounded else {}
    # gathered together, so that an expert without rows takes part in the same collectives on every rank
    set_z3_leaf_modules(model, list(leaf_modules))
    device = state_device(deepspeed_config)
    implementation = choose_implementation(config.optimizer, device)
    check_alike("optimizers", implementation, "set optimizer.implementation to torch")
    groups = parameter_groups(model, config.optimizer.weight_decay, undecayed, lr_scale)
    optimizer = build_optimizer(groups, config.optimizer, implementation, device)
    if dist.get_rank() == 0:
        say(describe_optimizer(implementation, device))
    try:
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_config, dist_init_required=False
        )
    except Exception as error:
        if may_pass(error) or not met_by_all():  # a rank alone would leave the others in a collective
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FatalRunError(f"DeepSpeed cannot work with {config.deepspeed_config}: {reason}") from error
    if is_rounded:
        for name, parameter in engine.module.named_parameters():
            full = given.pop(name)
            if hasattr(parameter, "ds_id"):  # ZeRO-3
                safe_set_local_fp32_param(parameter, own_partition(parameter, full))
            else:
                safe_set_full_fp32_param(parameter, full)
    order_gathers(engine)
    return engine


def may_pass(error: Exception) -> bool:
    """Return whether another start may succeed, as after an error of memory, a device, a file or the network.

    DeepSpeed's refusals are errors of other kinds.
    """
    return isinstance(error, (RuntimeError, OSError)) and not isinstance(error, NotImplementedError)


def check_alike(what: str, own: str, remedy: str) -> None:
    """Raise FatalRunError if ranks would use different implementations: they round differently. All ranks call it.

    what: plural, for the message; own: this rank's; remedy: what else can be done than to install the same everywhere.
    """
    per_rank = [own] * dist.get_world_size()
    dist.all_gather_object(per_rank, own)
    if len(found := sorted(set(per_rank))) > 1:
        raise FatalRunError(
            f"ranks find different {what} ({'; '.join(found)}); install the same on all nodes or {remedy}"
        )


def state_device(deepspeed_config: dict[str, Any]) -> torch.device:
    """Return the device of the optimizer's state: the CPU under offload_optimizer."""
    offload = deepspeed_config["zero_optimization"].get("offload_optimizer") or {}
    is_on_gpu = torch.cuda.is_available() and offload.get("device", "none") == "none"
    return torch.device("cuda" if is_on_gpu else "cpu")


def own_partition(parameter: Any, full: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor of a parameter's shape under ZeRO-3: equal parts, the last padded with zeros.

    DeepSpeed 0.19.8's access to whole parameters fails if their size is not a multiple of the number of ranks.
    """
    num_elements = parameter.partition_numel()
    rank = dist.get_rank(parameter.ds_process_group)
    part = full.flatten()[rank * num_elements : (rank + 1) * num_elements]
    return nn.functional.pad(part, (0, num_elements - part.numel()))
