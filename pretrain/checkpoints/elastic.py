"""Loading a checkpoint of any topology into the engine of a run.

On the same number of ranks and the same ds_configs/*.json DeepSpeed loads its own files. Otherwise, and for a
checkpoint from before norms and biases were stacked (model/stacked_vectors.py), weights, the moments of AdamW and the
average of the weights are read parameter by parameter (partitions.py) and put into the engine through DeepSpeed's
access to single parameters, which all stages have: its own loader of universal checkpoints cannot read those of another
stage, ignores buffers and gives all parameter groups one set of settings.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state
from torch import Tensor, nn

from model.stacked_vectors import NOTHING_STACKED, StackedRows, stacked_rows
from pretrain.checkpoints.background_files import BackgroundCheckpointEngine
from pretrain.checkpoints.partitions import Partitions, check_own_files, saved_parameters, saved_shapes
from pretrain.checkpoints.reader import Checkpoint
from pretrain.checkpoints.weights import saved_weights
from pretrain.engine.engine import own_partition
from pretrain.engine.optimizer import MOMENTS, adopt_state, empty_state, float32_partitions, group_settings
from pretrain.engine.weight_average import AVERAGE
from pretrain.survival.agreement import on_every_rank


def is_of_another_layout(checkpoint: Checkpoint[Any], memory_config: dict[str, Any], model: nn.Module) -> bool:
    """Return whether the checkpoint needs resharding to be loaded into a run of this model.

    Any other setting of memory_config counts: some change the layout silently. So do other parameters, or another
    order of them. Raises ValueError if the files do not hold what DeepSpeed saves.
    """
    if (checkpoint.world_size, checkpoint.memory_config) != (dist.get_world_size(), memory_config):
        return True
    own, groups = [name for name, _ in model.named_parameters()], saved_shapes(checkpoint.folder)
    # each group of the optimizer has its parameters in the order of the model
    expected = [[name for name in own if name in group] for group in groups]
    return [list(group) for group in groups] != expected or sum(map(len, groups)) != len(own)


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
    targets = model.state_dict()  # views, of stacked parameters too
    for name, tensor in saved_weights(folder, stacked_rows(model)):
        target = targets.pop(name, None)
        if target is None or target.shape != tensor.shape:
            raise ValueError(f"{folder} has another {name} than the network of the run; give a new run_dir")
        target.copy_(tensor)
    if targets:
        raise ValueError(f"{folder} lacks {', '.join(targets)}; give a new run_dir")


def load_optimizer(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint[Any], keeps_average: bool) -> None:
    """Load the optimizer state of a verified checkpoint, and DeepSpeed's counters. All ranks call it.

    keeps_average: load the average of the weights too, if the checkpoint has one. Raises FatalRunError if the files do
    not hold the state.
    """
    num_updates = checkpoint.num_updates
    engine.global_steps, engine.skipped_steps = checkpoint.step, checkpoint.step - num_updates
    engine.global_samples = checkpoint.step * engine.train_batch_size()
    if num_updates == 0:
        return  # there are no moments yet
    has_average = keeps_average and on_every_rank(lambda: Partitions(checkpoint.folder, NOTHING_STACKED).has_average)
    others = (AVERAGE,) if has_average else ()
    optimizer = engine.optimizer
    # the optimizer makes its state at its first step, which is still to come: DeepSpeed's access needs it before
    for partition in float32_partitions(optimizer):
        state = empty_state(optimizer.optimizer, partition, num_updates)
        optimizer.optimizer.state[partition] = state | {name: torch.zeros_like(partition) for name in others}
    if engine.zero_optimization_stage() < 3:
        optimizer._lazy_init_hp_params_optimizer_state()
    on_every_rank(lambda: _set_state(engine.module, checkpoint.folder, (*MOMENTS, *others)))


def _set_state(module: nn.Module, folder: Path, kinds: tuple[str, ...]) -> None:
    parameters: dict[str, Any] = dict(module.named_parameters())
    rows = stacked_rows(module)
    for name, tensors in _restacked(saved_parameters(folder, rows, kinds), rows):
        parameter = parameters.pop(name)  # load_weights_into has compared the names
        for kind, full in zip(kinds, tensors, strict=True):
            if hasattr(parameter, "ds_id"):  # ZeRO-3
                safe_set_local_optimizer_state(parameter, own_partition(parameter, full), kind)
            else:
                safe_set_full_optimizer_state(parameter, full, kind)
    assert not parameters, parameters.keys()


def _restacked(saved: Iterable[tuple[str, list[Tensor]]], rows: StackedRows) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the same with stacked parameters instead of their rows, each once the last of its rows has come."""
    stack_of = {row.name: stack for stack, of_stack in rows.items() for row in of_stack}
    waiting: dict[str, dict[str, list[Tensor]]] = defaultdict(dict)
    for name, tensors in saved:
        if name not in stack_of:
            yield name, tensors
            continue
        stack = stack_of[name]
        waiting[stack][name] = tensors
        if len(waiting[stack]) == len(rows[stack]):
            parts = waiting.pop(stack)
            in_order = [[tensor.flatten() for tensor in parts[row.name]] for row in rows[stack]]
            yield stack, [torch.cat(of_kind) for of_kind in zip(*in_order, strict=True)]


def holds_average(folder: Path) -> bool:
    """Return whether a verified checkpoint holds a moving average of the weights."""
    return Partitions(folder, NOTHING_STACKED).has_average
