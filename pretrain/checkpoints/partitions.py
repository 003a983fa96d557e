"""The content of DeepSpeed's checkpoint files, parameter by parameter: float32 weights, their average, AdamW's moments.

Every rank has a flat tensor per parameter group of the weights, of each moment and, if the run keeps one, of the moving
average of the weights:

    stages 1, 2   the group's parameters one after the other, cut into equal parts, one per rank
    stage 3       of each parameter an equal part, rounded up; the last ranks' are padded

Names and shapes are in the model states of rank 0. They are those of the network as it was trained: norms and biases
are stacked (model/stacked_vectors.py), in older checkpoints not. Here each has its own name in both cases. DeepSpeed's
tools read the same (zero_to_fp32, ds_to_universal), but unpickle every file in the folder.

Source: DeepSpeed 0.19.8, utils/zero_to_fp32.py and checkpoint/ds_to_universal.py.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from torch import Tensor

from model.stacked_vectors import StackedRows
from model.weight_checks import form_defect
from pretrain.checkpoints.background_files import read_state
from pretrain.engine.optimizer import MOMENTS, float32_partitions
from pretrain.engine.weight_average import AVERAGE

WEIGHT = "weight"
CHUNK_BYTES = 1 << 28
_OPTIMIZER_STATES = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")


@dataclass(frozen=True)
class Place:
    """Position of a parameter in the flat tensors of a group."""

    group: int
    shape: torch.Size
    pieces: list[tuple[int, int, int]]
    """Rank, first element and number of elements there."""


class Partitions:
    """The files of all ranks of a verified checkpoint, memory-mapped: values are read when they are asked for."""

    def __init__(self, folder: Path, rows: StackedRows):
        """rows: of the network's stacked parameters. Raises ValueError if the files do not hold what DeepSpeed saves,
        or hold code."""
        files = _optimizer_files(folder)
        self.folder = folder
        with _wrong_content(folder):
            self._states = [read_state(path, is_mapped=True)["optimizer_state_dict"] for path in files]
            self.stage, num_parts = int(self._states[0]["zero_stage"]), self._states[0]["partition_count"]
            if set(num_parts if isinstance(num_parts, list) else [num_parts]) != {len(files)}:
                raise KeyError(f"the states of {num_parts} ranks")
            model = read_state(folder / model_file(self.stage, 0), is_mapped=True)
            if model["shared_params"] or model.get("frozen_param_shapes"):
                raise KeyError("parameters of its own, neither shared nor frozen")
            found = {name: value for name, value in model["module"].items() if name in model["buffer_names"]}
            self.buffers: dict[str, Tensor] = {name: _checked_buffer(value) for name, value in found.items()}
            shapes = _checked_shapes(model)
            self._flats = {WEIGHT: [self._flat_groups(state, len(shapes)) for state in self._states]}
            place = _places_in_parts if self.stage == 3 else _places_in_a_row
            places: dict[str, Place] = {}
            for group, of_group in enumerate(shapes):
                sizes = [flats[group].numel() for flats in self._flats[WEIGHT]]
                paddings = self._states[0].get("param_alignment_paddings")
                places |= place(group, of_group, sizes, paddings[group] if paddings else [0] * len(of_group))
            self.places = unstacked(places, rows)

    def tensor(self, name: str, kind: str) -> Tensor:
        """Return a copy of a whole parameter, or of its average or one of its moments.

        Raises ValueError if it is not there.
        """
        place = self.places[name]
        with _wrong_content(self.folder):
            if kind not in self._flats:
                self._flats[kind] = [self._of_optimizer(state, kind) for state in self._states]
            parts = [self._flats[kind][rank][place.group].narrow(0, *piece) for rank, *piece in place.pieces]
            return torch.cat(parts).view(place.shape)

    def _flat_groups(self, state: dict[str, Any], num_groups: int) -> list[Tensor]:
        flats = state["fp32_flat_groups" if self.stage == 3 else "single_partition_of_fp32_groups"]
        if len(flats) != num_groups:
            raise KeyError(f"{num_groups} groups of weights")
        return [_checked_flat(flat) for flat in flats]

    @property
    def has_average(self) -> bool:
        """Whether the run kept a moving average of the weights. Raises ValueError if the state has another form."""
        with _wrong_content(self.folder):
            return all(AVERAGE in of_group for state in self._states for of_group in self._groups(state).values())

    def _of_optimizer(self, state: dict[str, Any], kind: str) -> list[Tensor]:
        own = self._groups(state)
        return [_checked_flat(own[group][kind]) for group in range(len(own))]

    def _groups(self, state: dict[str, Any]) -> dict[int, dict[str, Any]]:
        return state["optimizer_state_dict" if self.stage == 3 else "base_optimizer_state"]["state"]


def saved_parameters(
    folder: Path,
    rows: StackedRows,
    kinds: Sequence[str],
    chunk_bytes: int = CHUNK_BYTES,
    order: Sequence[str] | None = None,
) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield each parameter's name with its tensors of those kinds, from the files of a verified checkpoint.

    rows: of the network's stacked parameters, whose rows are yielded by their own names. order: all their names in the
    order to yield them; None: that of the files. The files are mapped anew after every `chunk_bytes`, so that pages
    already read do not add up. Raises ValueError if the files do not hold them.
    """
    num_done, num_all = 0, 1
    while num_done < num_all:
        partitions, num_bytes = Partitions(folder, rows), 0
        names = list(partitions.places) if order is None else order
        num_all = len(names)
        while num_done < num_all and num_bytes < chunk_bytes:
            tensors = [partitions.tensor(names[num_done], kind) for kind in kinds]
            num_bytes += sum(tensor.nbytes for tensor in tensors)
            yield names[num_done], tensors
            num_done += 1
            del tensors
        del partitions  # before the next mapping, not after it


def saved_shapes(folder: Path) -> list[dict[str, torch.Size]]:
    """Return names and shapes of the trained parameters of each group, as a verified checkpoint has them.

    Raises ValueError if its files do not hold them.
    """
    path = next((path for stage in (3, 2) if (path := folder / model_file(stage, 0)).exists()), None)
    if path is None:
        raise ValueError(f"{folder} lacks the model states of rank 0; give another checkpoint")
    with _wrong_content(path):
        return _checked_shapes(read_state(path, is_mapped=True))


def unstacked(places: dict[str, Place], rows: StackedRows) -> dict[str, Place]:
    """Return the places with those of the rows instead of stacked parameters.

    A stacked parameter of other sizes, which is that of another network, keeps its name.
    """
    found = {}
    for name, place in places.items():
        if name not in rows or place.shape != (sum(row.length for row in rows[name]),):
            found[name] = place
            continue
        for row in rows[name]:
            pieces = _cut(place.pieces, row.start, row.start + row.length)
            found[row.name] = Place(place.group, row.shape, pieces)
    return found


def check_own_files(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Raise ValueError unless this rank's files of a checkpoint hold the state of this engine.

    DeepSpeed, which loads them, would fail on one rank alone, with a traceback.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model_path, files = folder / model_file(engine.zero_optimization_stage(), rank), _optimizer_files(folder)
    if len(files) != world_size:
        raise ValueError(f"{folder} has the optimizer states of {len(files)} ranks, not of {world_size}")
    with _wrong_content(model_path):
        _check_model_states(engine, read_state(model_path, is_mapped=True))
    with _wrong_content(files[rank]):
        _check_optimizer_states(engine.optimizer, read_state(files[rank], is_mapped=True)["optimizer_state_dict"])


def _check_model_states(engine: deepspeed.DeepSpeedEngine, states: dict[str, Any]) -> None:
    """Raise KeyError, or the error that a wrong type causes, unless they are those of this engine."""
    own: dict[str, Any] = engine.module.state_dict(keep_vars=True)
    if states["module"].keys() != own.keys():
        raise KeyError("the names of another network")
    for name, tensor in own.items():
        shapes = [(0,), tuple(tensor.ds_shape)] if hasattr(tensor, "ds_shape") else [tuple(tensor.shape)]
        if tuple(states["module"][name].shape) not in shapes:  # under ZeRO-3 the file holds no values
            raise KeyError(f"another shape for {name}")
    counters = ("global_steps", "global_samples", "skipped_steps", "dp_world_size", "mp_world_size")
    if not all(isinstance(states[name], int) for name in counters):
        raise KeyError("no counters of a run")


def _check_optimizer_states(optimizer: Any, states: dict[str, Any]) -> None:
    """Raise KeyError, or the error that a wrong type causes, unless they are those of this engine."""
    is_stage_3 = "fp32_flat_groups" in states
    if is_stage_3 != hasattr(optimizer, "fp32_partitioned_groups_flat"):
        raise KeyError("another ZeRO stage")
    if hasattr(optimizer, "loss_scaler"):
        scaler = states["loss_scaler"]
        if type(scaler) is not LossScaler or vars(scaler) != vars(optimizer.loss_scaler):
            raise KeyError("another loss scale")
    flats = states["fp32_flat_groups" if is_stage_3 else "single_partition_of_fp32_groups"]
    base = states["optimizer_state_dict" if is_stage_3 else "base_optimizer_state"]
    partitions = float32_partitions(optimizer)
    paddings = [0] * len(partitions)
    if not is_stage_3:
        paddings = getattr(optimizer, "groups_padding", paddings)  # stages 1 and 2 leave it out of the files
    if len(flats) != len(partitions):
        raise KeyError(f"{len(flats)} groups of weights")
    for index, (flat, partition) in enumerate(zip(flats, partitions, strict=True)):
        if _checked_flat(flat).numel() not in (partition.numel(), partition.numel() - paddings[index]):
            raise KeyError(f"{flat.numel()} weights in group {index}")
        saved = base["state"].get(index, {}) if isinstance(base, dict) else {}
        for kind in (*MOMENTS, *({AVERAGE} & saved.keys())) if saved else ():
            if _checked_flat(saved[kind]).numel() != partition.numel():
                raise KeyError(f"{saved[kind].numel()} values of {kind} in group {index}")


def places_in_engine(engine: deepspeed.DeepSpeedEngine) -> dict[str, Place]:
    """Return where each parameter lies in `float32_partitions` of all ranks."""
    optimizer, world_size = engine.optimizer, dist.get_world_size()
    place = _places_in_parts if engine.zero_optimization_stage() == 3 else _places_in_a_row
    paddings = getattr(optimizer, "round_robin_bit16_padding", None)  # of stages 1 and 2
    places: dict[str, Place] = {}
    for group, shapes in enumerate(engine._get_zero_param_shapes()):
        sizes = [float32_partitions(optimizer)[group].numel()] * world_size
        places |= place(group, shapes, sizes, paddings[group] if paddings else [0] * len(shapes))
    return places


def model_file(stage: int, rank: int) -> str:
    """Return the name of the file with the model states of a rank."""
    return f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"


def _optimizer_files(folder: Path) -> list[Path]:
    """Return the optimizer files of all ranks, in their order. Raises ValueError if one is missing."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _OPTIMIZER_STATES.fullmatch(path.name))}
    if not found or set(found) != set(range(len(found))):
        raise ValueError(f"{folder} lacks the optimizer states of a rank; give another checkpoint")
    return [found[rank] for rank in range(len(found))]


@contextmanager
def _wrong_content(place: Path) -> Iterator[None]:
    """Turn the errors that data of another form cause in this code into one sentence."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, OverflowError, FileNotFoundError) as error:
        found = (
            f"no {error.filename}" if isinstance(error, FileNotFoundError) else error.args[0] if error.args else error
        )
        reason = " ".join(str(found).split())[:160]
        raise ValueError(f"{place} does not hold what DeepSpeed saves ({reason}); give another checkpoint") from error


def _checked_buffer(value: Tensor) -> Tensor:
    defect = form_defect(value, value.shape, (value.dtype,))
    if defect is not None:
        raise TypeError(f"{defect[0]}, not {defect[1]}")
    return value.float() if value.is_floating_point() else value


def _checked_flat(tensor: Any) -> Tensor:
    flat: Tensor = tensor
    defect = form_defect(flat, torch.Size((flat.numel(),)))
    if defect is not None:
        raise TypeError(f"{defect[0]}, not {defect[1]}")
    return flat


def _checked_shapes(model: dict[str, Any]) -> list[dict[str, torch.Size]]:
    """Return the shapes of each group in model states. Raises KeyError, or the error that a wrong type causes."""
    shapes: list[dict[str, torch.Size]] = model["param_shapes"]
    if not all(isinstance(shape, torch.Size) for group in shapes for shape in group.values()):
        raise KeyError("shapes of parameters")
    return shapes


def _cut(pieces: list[tuple[int, int, int]], first: int, end: int) -> list[tuple[int, int, int]]:
    """Return the pieces that hold the elements from `first` up to `end` of a parameter with these pieces."""
    found, begin = [], 0
    for rank, start, length in pieces:
        low, high = max(first, begin), min(end, begin + length)
        if low < high:
            found.append((rank, start + low - begin, high - low))
        begin += length
    return found


def _places_in_parts(
    group: int, shapes: dict[str, torch.Size], sizes: list[int], paddings: list[int]
) -> dict[str, Place]:
    """Return the places under stage 3: an equal part of each parameter on every rank."""
    places, start = {}, 0
    for name, shape in shapes.items():
        part = -(-shape.numel() // len(sizes))
        lengths = [min(part, max(0, shape.numel() - rank * part)) for rank in range(len(sizes))]
        places[name] = Place(group, shape, [(rank, start, length) for rank, length in enumerate(lengths)])
        start += part
    if set(sizes) != {start}:
        raise KeyError(f"{start} weights per rank in group {group}")
    return places


def _places_in_a_row(
    group: int, shapes: dict[str, torch.Size], sizes: list[int], paddings: list[int]
) -> dict[str, Place]:
    """Return the places under stages 1 and 2: parameters, each with its padding, one after the other over all ranks."""
    places, begin = {}, 0
    firsts = [0, *itertools.accumulate(sizes)]
    for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
        end, pieces = begin + shape.numel(), []
        for rank, first in enumerate(firsts[:-1]):
            low, high = max(begin, first), min(end, firsts[rank + 1])
            if low < high:
                pieces.append((rank, low - first, high - low))
        places[name] = Place(group, shape, pieces)
        begin = end + padding
    align = 2 * len(sizes)
    if -(-begin // align) != -(-firsts[-1] // align):  # the rest is padding at the end of the group
        raise KeyError(f"{begin} weights in group {group}")
    return places
