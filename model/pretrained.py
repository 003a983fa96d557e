"""Our own format: model.safetensors and config.json in one folder. No pickles: nothing in them is ever executed."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import MultiwayConfig
from model.masked_data_model import MaskedDataModel

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

    Raises ValueError, naming the first difference, where they are missing or not exactly its parameters.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise ValueError(f"{path} does not exist; write it with pretrain.convert --to safetensors")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name, parameter in model.named_parameters():
        if name not in weights or weights[name].shape != parameter.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise ValueError(f"{path} has {found} for {name}, expected {tuple(parameter.shape)}")
    unknown = set(weights) - {name for name, _ in model.named_parameters()}
    if unknown:
        raise ValueError(f"{path} has parameters that the network has not: {', '.join(sorted(unknown))}")
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
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path} does not exist; write it with pretrain.convert --to safetensors") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict) or values.pop("model_type", None) != MODEL_TYPE:
        raise ValueError(f"{path} describes no network of ours (model_type {MODEL_TYPE!r}); convert it first")
    expected = {field.name for field in fields(MultiwayConfig)}
    if set(values) != expected:
        raise ValueError(f"{path} has other fields than MultiwayConfig: {', '.join(sorted(set(values) ^ expected))}")
    return MultiwayConfig(**values)
