"""Microsoft's BEiT-3 files on disk: {"model": {name: float32 tensor}}, written by torch.save.

Ours have one entry more, the fingerprint of their text tokenizer. Reading executes nothing.
"""

import argparse
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import Heads, MultiwayConfig
from model.weight_files import HoldsCodeError, read_torch_file
from pretrain.formats.beit3 import file_entries
from pretrain.formats.role import Role
from pretrain.formats.vocabulary import FINGERPRINT_KEY


def save_beit3(
    weights: Iterable[tuple[str, Tensor]],
    config: MultiwayConfig,
    role: Role,
    path: Path,
    text_tokenizer_sha256: str | None = None,
    heads: Heads | None = None,
) -> None:
    """Write a file that is exact for a role. heads: as for `build_network`. Raises OSError if it cannot be written."""
    # in an order of their own, so that the same weights give the same bytes from a checkpoint and from an export
    content: dict[str, object] = {"model": dict(sorted(file_entries(weights, config, role, heads), key=itemgetter(0)))}
    if text_tokenizer_sha256 is not None:
        content[FINGERPRINT_KEY] = text_tokenizer_sha256  # a string: their loader looks at "model" alone
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's answer to an error of the file
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error


def load_beit3(path: Path, is_mapped: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a file, or if is_mapped a view of it. Raises ValueError if it is not one of theirs."""
    content = _load(path, is_mapped)
    if isinstance(content, dict):
        content = content.get("model", content.get("module", content))
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path} is not a BEiT-3 checkpoint: it has no 'model' that maps names to tensors")
    return content


def tokenizer_sha256(path: Path) -> str | None:
    """Return the fingerprint of the text tokenizer that a file of ours was written with, None for one of theirs."""
    content = _load(path, is_mapped=True)
    found = content.get(FINGERPRINT_KEY) if isinstance(content, dict) else None
    return found if isinstance(found, str) else None


def _load(path: Path, is_mapped: bool) -> Any:
    """Read a file and execute nothing in it. Raises ValueError if it holds more than tensors and plain values."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a BEiT-3 checkpoint file, or leave out --from beit3 for a run")
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a BEiT-3 checkpoint file")
    try:
        return read_torch_file(path, [argparse.Namespace], is_mapped=is_mapped)  # the options of their training
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    except HoldsCodeError as error:
        load, save = f'f = torch.load("{path}", weights_only=False)', 'torch.save({"model": f["model"]}, "model.pth")'
        raise ValueError(
            f"{error}. If you trust it (Microsoft's save_model adds its optimizer): "
            f"python -c 'import torch; {load}; {save}' writes model.pth, which can be converted"
        ) from error
