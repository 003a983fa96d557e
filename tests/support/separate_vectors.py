"""Checkpoints as they were before norms and biases were stacked."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.masked_data_model import MaskedDataModel
from model.stacked_vectors import StackedRows, stacked_rows
from pretrain.checkpoints.partitions import WEIGHT, saved_parameters, saved_shapes
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.engine.optimizer import MOMENTS
from pretrain.engine.weight_average import AVERAGE
from tests.support.crafted import seal


def separate_vectors(folder: Path) -> None:
    """Rewrite a checkpoint of ZeRO-3 so that each norm and bias is a parameter of its own, in another order."""
    checkpoint = find_checkpoint(folder)
    rows = stacked_rows(MaskedDataModel(checkpoint.config.model))
    kinds = (WEIGHT, *MOMENTS, AVERAGE)
    saved = dict(saved_parameters(folder, rows, kinds))
    names = [sorted(_names(group, rows)) for group in saved_shapes(folder)]
    for rank in range(checkpoint.world_size):

        def flat(group: list[str], kind: int, rank: int = rank) -> Tensor:
            return torch.cat([_part(saved[name][kind], rank, checkpoint.world_size) for name in group])

        path = folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        state = torch.load(path, weights_only=False)  # written by the run of this test
        state["param_shapes"] = [OrderedDict((name, saved[name][0].shape) for name in group) for group in names]
        state["module"] = {name: torch.empty(0) for group in names for name in group}
        torch.save(state, path)

        (path,) = folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        state = torch.load(path, weights_only=False)
        partitions = state["optimizer_state_dict"]
        partitions["fp32_flat_groups"] = [flat(group, 0) for group in names]
        for index, group in enumerate(names):
            for number, kind in enumerate(kinds[1:], start=1):
                partitions["optimizer_state_dict"]["state"][index][kind] = flat(group, number)
        torch.save(state, path)
    seal(folder)


def _names(group: dict[str, torch.Size], rows: StackedRows) -> list[str]:
    return [row for name in group for row in ([row.name for row in rows[name]] if name in rows else [name])]


def _part(tensor: Tensor, rank: int, num_ranks: int) -> Tensor:
    """Return a rank's part of a parameter under ZeRO-3."""
    padded = pad(tensor.flatten(), (0, -tensor.numel() % num_ranks))
    return padded.chunk(num_ranks)[rank]
