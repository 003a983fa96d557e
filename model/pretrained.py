"""Our own format: model.safetensors and config.json in one folder. No pickles: nothing in them is ever executed."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.config import MultiwayConfig
from model.masked_data_model import MaskedDataModel
from model.weight_checks import check_weights
from model.weight_files import read_json_object, read_safetensors

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
MODEL_TYPE = "imglish"


def load_pretrained(folder: Path | str) -> MaskedDataModel:
    """The network in a folder, float32, on the CPU, in evaluation mode.

    Raises ValueError where the folder does not hold exactly a network in our format.
    """
    folder = Path(folder)
    with torch.device("meta"):
        model = MaskedDataModel(read_config(folder))
    load_weights(model, folder, assign=True)
    return model.eval()


def load_weights(model: MaskedDataModel, folder: Path, assign: bool = False) -> None:
    """Fill a network with the weights in a folder; assign: put them in the place of its parameters.

    Raises ValueError, naming the first difference, where they are missing, not exactly its parameters in float32, or
    not finite; OSError where they cannot be read.
    """
    path = folder / WEIGHTS_NAME
    weights = read_safetensors(_existing(path))
    check_weights(path, weights, dict(model.named_parameters()))
    model.load_state_dict(weights, assign=assign)
    model.requires_grad_(True)


def save_pretrained(
    weights: dict[str, Tensor], config: MultiwayConfig, folder: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write the weights of a MaskedDataModel into a folder. Raises OSError if they cannot be written."""
    save_safetensors(weights, folder / WEIGHTS_NAME, metadata)
    (folder / CONFIG_NAME).write_text(json.dumps({"model_type": MODEL_TYPE, **asdict(config)}, indent=2) + "\n")


def save_safetensors(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a file with the permissions that the umask asks for. Raises OSError if it cannot be written."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(weights, path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        raise OSError(str(error).removeprefix("Error while serializing: ")) from error
    path.chmod(mode)  # safetensors' own are 0600


def read_config(folder: Path) -> MultiwayConfig:
    """The sizes of the network in a folder. Raises ValueError where there is no such network."""
    path = folder / CONFIG_NAME
    values = read_json_object(_existing(path))
    if values.pop("model_type", None) != MODEL_TYPE:
        raise ValueError(f"{path} describes no network of ours (model_type {MODEL_TYPE!r}); convert it first")
    expected = {field.name for field in fields(MultiwayConfig)}
    if set(values) != expected:
        raise ValueError(f"{path} has other fields than MultiwayConfig: {', '.join(sorted(set(values) ^ expected))}")
    try:
        return pydantic.TypeAdapter(MultiwayConfig).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))} {' '.join(first['msg'].split())}".strip()
        raise ValueError(f"{path} describes no network: {said}; convert it again") from error


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path} does not exist; write it with pretrain.convert --to safetensors")
    return path
