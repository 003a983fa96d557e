"""timm's `beit3_*` image towers: the vision branch as a VisionTransformer with attention and MLP norms.

Written as timm reads a local folder, `timm.create_model("local-dir:OUT", pretrained=True)`: model.safetensors and a
config.json with the architecture and its sizes. The final norm is kept (global_pool="token", its place is `norm`).

Source: timm 1.0.31, models/vision_transformer.py `_convert_beit3` and models/_hub.py.
"""

import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from model.config import MultiwayConfig
from model.embeddings import POSITION_OFFSET
from model.pretrained import CONFIG_NAME, WEIGHTS_NAME, save_safetensors

ARCHITECTURES = {(768, 16): "beit3_base_patch16_224", (1024, 16): "beit3_large_patch16_224",
                 (1408, 14): "beit3_giant_patch14_224"}  # fmt: skip
"""Architectures by dim and patch size. Any other network is written as the first of them with its own sizes."""
_OUTSIDE_BLOCKS = {
    "encoder.vision_embed.cls_token": "cls_token",
    "encoder.vision_embed.pos_embed": "pos_embed",
    "encoder.vision_embed.patch_embed.weight": "patch_embed.proj.weight",
    "encoder.vision_embed.patch_embed.bias": "patch_embed.proj.bias",
}


def save_timm(weights: Iterable[tuple[str, Tensor]], config: MultiwayConfig, out: Path) -> None:
    """Write OUT/model.safetensors and OUT/config.json. Raises OSError if they cannot be written."""
    save_safetensors(dict(timm_entries(weights)), out / WEIGHTS_NAME)
    (out / CONFIG_NAME).write_text(json.dumps(timm_config(config), indent=2) + "\n")


def timm_features(out: Path, images: Tensor) -> Tensor:
    """Return (B, V, D) features after the final norm, from the tower that timm loads from the folder.

    Raises ValueError if timm cannot be imported.
    """
    tower = import_timm().create_model(f"local-dir:{out}", pretrained=True).eval()
    features: Tensor = tower.forward_features(images)
    return features


def import_timm(remedy: str = "pip install -c constraints.txt timm, or pass --no-verify") -> ModuleType:
    """Import timm, which is optional. Raises ValueError if it cannot be imported."""
    importlib.import_module("pretrain.formats.cpu_torchvision")
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"timm is needed here ({reason}); {remedy}") from error


def timm_entries(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters that an image alone passes through, under timm's names, each in its own memory."""
    for name, tensor in weights:
        timm_name = _timm_name(name)
        if timm_name is not None:
            if timm_name == "pos_embed":
                tensor = tensor[POSITION_OFFSET:][None]  # (1, V, D)
            yield timm_name, tensor.detach().float().clone()


def timm_config(config: MultiwayConfig) -> dict[str, Any]:
    """Return the config.json of a local folder."""
    size = config.image_size
    return {
        "architecture": ARCHITECTURES.get((config.dim, config.patch_size), next(iter(ARCHITECTURES.values()))),
        "num_classes": 0,
        "num_features": config.dim,
        "global_pool": "token",
        "model_args": {
            "img_size": size,
            "patch_size": config.patch_size,
            "embed_dim": config.dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": (config.ffn_dim + 0.5) / config.dim,  # timm truncates the product
            "global_pool": "token",
        },
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _timm_name(name: str) -> str | None:
    """Return timm's name, None for a parameter that an image alone does not pass through."""
    if name in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[name]
    words = name.split(".")
    if words[0] != "encoder" or words[1] not in ("blocks", "norm"):
        return None
    expert = next(word for word in words if word in ("shared", "vision", "language", "vision_language"))
    if expert not in ("shared", "vision"):
        return None
    words.remove(expert)
    return ".".join("mlp" if word == "experts" else word for word in words[1:])
