"""Imglish's own format: model.safetensors and config.json in one folder. Without pickles, so that loading executes no
code."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.config import (
    TASK_HEADS,
    DualHeads,
    Heads,
    MultiwayConfig,
    TaskHead,
)
from model.networks import Network, build_network
from model.weight_checks import check_weights
from model.weight_files import read_json_object, read_safetensors

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
MODEL_TYPE = "imglish"
SettingsT = TypeVar("SettingsT", bound=MultiwayConfig | Heads)
HEADS_KEY = "heads"
"""Entry of config.json that a DualEncoder and the network of a task have, beside the fields of MultiwayConfig."""
TASK_KEY = "task"
"""Entry of the heads that only the network of a task has: its name, see `model.config.TaskName`."""


def load_network(folder: Path | str) -> Network:
    """Return the network in a folder, of any kind: float32, on the CPU, in evaluation mode.

    Raises ValueError if the folder does not hold exactly a network in this format.
    """
    folder = Path(folder)
    with torch.device("meta"):
        model = build_network(read_config(folder), read_heads(folder))
    load_weights(model, folder, assign=True)
    return model.eval()


def load_weights(model: Network, folder: Path, assign: bool = False) -> None:
    """Load the weights in a folder into a network; assign: replace its parameters instead of filling them.

    Raises ValueError, which names the first difference, if the weights are missing, are not exactly its parameters in
    float32, or are not finite; OSError if they cannot be read.
    """
    path = folder / WEIGHTS_NAME
    weights = read_safetensors(_existing(path))
    check_weights(path, weights, model.state_dict())
    model.load_state_dict(weights, assign=assign)
    model.requires_grad_(True)


def save_network(
    weights: dict[str, Tensor],
    config: MultiwayConfig,
    folder: Path,
    metadata: dict[str, str] | None = None,
    heads: Heads | None = None,
) -> None:
    """Write the weights of a network into a folder. Raises OSError if they cannot be written.

    metadata: of the safetensors file; heads: as for `build_network`.
    """
    save_safetensors(weights, folder / WEIGHTS_NAME, metadata)
    content: dict[str, object] = {"model_type": MODEL_TYPE, **asdict(config)}
    if heads is not None:
        content[HEADS_KEY] = heads_entry(heads)
    (folder / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n")


def heads_entry(heads: Heads) -> dict[str, object]:
    """Return heads as config.json and cards have them."""
    return asdict(heads) if isinstance(heads, DualHeads) else {TASK_KEY: heads.TASK, **asdict(heads)}


def save_safetensors(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions that the umask asks for. Raises OSError if it cannot be written."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(weights, path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        raise OSError(str(error).removeprefix("Error while serializing: ")) from error
    path.chmod(mode)  # safetensors creates files with mode 0600


def read_config(folder: Path) -> MultiwayConfig:
    """Return the sizes of the network in a folder. Raises ValueError if the folder has no such network."""
    path, values = _read(folder)
    values.pop(HEADS_KEY, None)
    return _validated(path, values, MultiwayConfig)


def read_heads(folder: Path) -> Heads | None:
    """Return the heads of the DualEncoder or of the task's network in a folder, None if it holds a MaskedDataModel.

    Raises ValueError if the folder has no such network.
    """
    path, values = _read(folder)
    found = values.get(HEADS_KEY)
    if found is None:
        return None
    entries = dict(found) if isinstance(found, dict) else {}
    task = entries.pop(TASK_KEY, None)
    if task is None:
        return _validated(path, entries, DualHeads)
    kinds: dict[str, type[TaskHead]] = {kind.TASK: kind for kind in TASK_HEADS}
    if not isinstance(task, str) or task not in kinds:
        raise ValueError(f"{path} has heads of the task {task!r:.60}, not one of {', '.join(kinds)}")
    return _validated(path, entries, kinds[task])


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and the content of config.json, without its model_type."""
    path = folder / CONFIG_NAME
    values = read_json_object(_existing(path))
    if (found := values.pop("model_type", None)) != MODEL_TYPE:
        raise ValueError(
            f"{path} is not the configuration of an Imglish network (model_type {found!r:.40}, not {MODEL_TYPE!r}); "
            "give a run, or a folder that pretrain.convert --to safetensors wrote"
        )
    return path, values


def _validated(path: Path, values: dict[str, Any], kind: type[SettingsT]) -> SettingsT:
    """Return the dataclass with these values. Raises ValueError, naming the first difference, if they are not it."""
    expected = {field.name for field in fields(kind)}
    if set(values) != expected:
        raise ValueError(
            f"{path} does not have the fields of {kind.__name__}: {', '.join(sorted(set(values) ^ expected))}"
        )
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))} {' '.join(first['msg'].split())}".strip()
        raise ValueError(f"{path} does not describe a valid network: {reason}; convert it again") from error


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path} does not exist; write it with pretrain.convert --to safetensors")
    return path
