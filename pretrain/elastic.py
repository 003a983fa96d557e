"""A checkpoint on another topology: another number of ranks, another ZeRO stage.

DeepSpeed's own tool takes the moments of AdamW apart by parameter (its universal checkpoint); the weights are read by
its other tool, which reads all stages. Both are put into the engine through DeepSpeed's access to single parameters,
which all stages have: its own loader of universal checkpoints knows none of another stage, leaves buffers alone and
gives all parameter groups one set of settings.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state
from torch import Tensor, nn

from pretrain.agreement import AgreedFailure, on_every_rank
from pretrain.checkpoint import Checkpoint
from pretrain.console import say
from pretrain.engine import own_partition
from pretrain.optimizer import step_counter
from pretrain.weights import checkpoint_weights

MOMENTS = ("exp_avg", "exp_avg_sq")


def is_of_another_layout(checkpoint: Checkpoint[Any], memory_config: dict[str, Any]) -> bool:
    """Whether DeepSpeed's files may lie otherwise than those of this run: some settings change that silently."""
    return (checkpoint.world_size, checkpoint.memory_config) != (dist.get_world_size(), memory_config)


@torch.no_grad()
def load_weights_into(model: nn.Module, folder: Path) -> None:
    """Weights and buffers of a verified checkpoint, of whatever topology, into a model that no engine has yet."""
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in checkpoint_weights(folder):
        targets.pop(name).copy_(tensor)
    assert not targets, targets.keys()


def load_moments(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint[Any]) -> None:
    """The optimizer state of a verified checkpoint, and DeepSpeed's counters. All ranks call it.

    Raises AgreedError or AgreedFailure where it cannot be taken apart.
    """
    num_updates = checkpoint.num_updates
    engine.global_steps, engine.skipped_steps = checkpoint.step, checkpoint.step - num_updates
    engine.global_samples = checkpoint.step * engine.train_batch_size()
    if num_updates == 0:
        return  # there are no moments yet
    process = [os.getpid()]
    dist.broadcast_object_list(process)  # what a killed start has left may still be writing into its own folder
    folder = checkpoint.folder.with_name(f"{checkpoint.folder.name}.universal.{process[0]}.partial")
    on_every_rank(lambda: _take_apart(checkpoint.folder, folder) if dist.get_rank() == 0 else None)
    optimizer = engine.optimizer
    for partition in _float32_partitions(optimizer):
        moments = {name: torch.zeros_like(partition) for name in MOMENTS}
        optimizer.optimizer.state[partition] = {
            "step": step_counter(optimizer.optimizer, partition, num_updates),
            **moments,
        }
    if engine.zero_optimization_stage() < 3:
        optimizer._lazy_init_hp_params_optimizer_state()
    on_every_rank(lambda: _set_moments(engine.module, folder / "zero"))
    dist.barrier()  # all have read it
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / "latest_universal").unlink(missing_ok=True)  # the tool's note


def _take_apart(source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(source), "--output_folder", str(folder), "--inject_missing_state"]
    say(f"{source} is converted for another topology")
    # in a process group of its own: a signal to the job is this rank's, which saves and stops
    ended = subprocess.run(command, capture_output=True, text=True, check=False, process_group=0)
    if ended.returncode < 0:
        raise AgreedFailure(f"the conversion of {source} for another topology was killed; start again")
    if ended.returncode:
        reason = (ended.stderr.splitlines() or ["no reason given"])[-1]
        raise ValueError(f"{source} cannot be converted for another topology: {reason}")


def _float32_partitions(optimizer: Any) -> list[Tensor]:
    """This rank's part of each parameter group, whose optimizer state torch's optimizer holds."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):  # of ZeRO-3, of ZeRO-1 and 2, of ZeRO-1 with bfloat16
            return list(getattr(optimizer, name))
    raise AssertionError(type(optimizer))


def _set_moments(module: nn.Module, folder: Path) -> None:
    for name, parameter in module.named_parameters():
        for moment in MOMENTS:
            saved = torch.load(folder / name / f"{moment}.pt", weights_only=False)  # of a verified checkpoint
            full = saved["param"] if isinstance(saved, dict) else saved  # as it is in stages below 3
            if hasattr(parameter, "ds_id"):  # ZeRO-3
                safe_set_local_optimizer_state(parameter, own_partition(parameter, full), moment)
            else:
                safe_set_full_optimizer_state(parameter, full, moment)
