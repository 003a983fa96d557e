"""Loading a checkpoint of any topology into the engine of a run.

On the same number of ranks and the same ds_configs/*.json DeepSpeed loads its own files. Otherwise weights and the
moments of AdamW are read parameter by parameter (partitions.py) and put into the engine through DeepSpeed's access to
single parameters, which all stages have: its own loader of universal checkpoints cannot read those of another stage,
ignores buffers and gives all parameter groups one set of settings.
"""

from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state
from torch import nn

from pretrain.checkpoints.background_files import BackgroundCheckpointEngine
from pretrain.checkpoints.partitions import MOMENTS, check_own_files, float32_partitions, saved_parameters
from pretrain.checkpoints.reader import Checkpoint
from pretrain.checkpoints.weights import checkpoint_weights
from pretrain.engine.engine import own_partition
from pretrain.engine.optimizer import adopt_state, group_settings, step_counter
from pretrain.survival.agreement import on_every_rank


def is_of_another_layout(checkpoint: Checkpoint[Any], memory_config: dict[str, Any]) -> bool:
    """Return whether the checkpoint needs resharding. Any other setting counts: some change the layout silently."""
    return (checkpoint.world_size, checkpoint.memory_config) != (dist.get_world_size(), memory_config)


def load_checkpoint(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint[Any]) -> None:
    """Load a verified checkpoint of the same topology into the engine. All ranks call it.

    Raises FatalRunError if its files do not hold the state of such an engine.
    """
    optimizer = engine.optimizer.optimizer
    settings = group_settings(optimizer)
    on_every_rank(lambda: check_own_files(engine, checkpoint.folder))
    engine.checkpoint_engine = BackgroundCheckpointEngine()  # DeepSpeed's own would unpickle
    loaded, _ = engine.load_checkpoint(checkpoint.folder.parent, tag=checkpoint.folder.name)
    assert loaded is not None
    adopt_state(optimizer, settings, checkpoint.num_updates)


@torch.no_grad()
def load_weights_into(model: nn.Module, folder: Path) -> None:
    """Copy weights and buffers of a verified checkpoint, of any topology, into a model that no engine has yet.

    Raises ValueError if they are not those of the model.
    """
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in checkpoint_weights(folder):
        target = targets.pop(name, None)
        if target is None or target.shape != tensor.shape:
            raise ValueError(f"{folder} has another {name} than the network of the run; give a new run_dir")
        target.copy_(tensor)
    if targets:
        raise ValueError(f"{folder} lacks {', '.join(targets)}; give a new run_dir")


def load_moments(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint[Any]) -> None:
    """Load the optimizer state of a verified checkpoint, and DeepSpeed's counters. All ranks call it.

    Raises FatalRunError if the files do not hold it.
    """
    num_updates = checkpoint.num_updates
    engine.global_steps, engine.skipped_steps = checkpoint.step, checkpoint.step - num_updates
    engine.global_samples = checkpoint.step * engine.train_batch_size()
    if num_updates == 0:
        return  # there are no moments yet
    optimizer = engine.optimizer
    # the optimizer makes its state at its first step, which is still to come: DeepSpeed's access needs it before
    for partition in float32_partitions(optimizer):
        moments = {name: torch.zeros_like(partition) for name in MOMENTS}
        optimizer.optimizer.state[partition] = {
            "step": step_counter(optimizer.optimizer, partition, num_updates),
            **moments,
        }
    if engine.zero_optimization_stage() < 3:
        optimizer._lazy_init_hp_params_optimizer_state()
    on_every_rank(lambda: _set_moments(engine.module, checkpoint.folder))


def _set_moments(module: nn.Module, folder: Path) -> None:
    parameters: dict[str, Any] = dict(module.named_parameters())
    for name, moments in saved_parameters(folder, MOMENTS):
        parameter = parameters.pop(name)  # load_weights_into has compared the names
        for moment, full in zip(MOMENTS, moments, strict=True):
            if hasattr(parameter, "ds_id"):  # ZeRO-3
                safe_set_local_optimizer_state(parameter, own_partition(parameter, full), moment)
            else:
                safe_set_full_optimizer_state(parameter, full, moment)
    assert not parameters, parameters.keys()
