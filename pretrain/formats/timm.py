"""timm's `beit3_*` image towers: the vision branch as a VisionTransformer with attention and MLP norms.

Written as timm reads a local folder, `timm.create_model("local-dir:OUT", pretrained=True)`: model.safetensors and a
config.json with the architecture and its sizes. The final norm is kept (global_pool="token", its place is `norm`). A
network of classify has none; it keeps its head instead, after the mean of the patches (global_pool="avg", `fc_norm`).

Source: timm 1.0.31, models/vision_transformer.py `_convert_beit3` and models/_hub.py.
"""

import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from model.config import ClassHead, MultiwayConfig
from model.embeddings import POSITION_OFFSET
from model.pretrained import CONFIG_NAME, WEIGHTS_NAME, save_safetensors
from pretrain.formats.preprocessing import Preprocessing

ARCHITECTURES = {(768, 16): "beit3_base_patch16_224", (1024, 16): "beit3_large_patch16_224",
                 (1408, 14): "beit3_giant_patch14_224"}  # fmt: skip
"""Architectures by dim and patch size. Any other network is written as the first of them with its own sizes."""
CLASS_PARTS = ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
"""Parameters of the head of classify; their names are ours too."""
_OUTSIDE_BLOCKS = {
    "encoder.vision_embed.cls_token": "cls_token",
    "encoder.vision_embed.pos_embed": "pos_embed",
    "encoder.vision_embed.patch_embed.weight": "patch_embed.proj.weight",
    "encoder.vision_embed.patch_embed.bias": "patch_embed.proj.bias",
}


def save_timm(
    weights: Iterable[tuple[str, Tensor]],
    config: MultiwayConfig,
    preprocessing: Preprocessing,
    out: Path,
    heads: ClassHead | None = None,
) -> None:
    """Write OUT/model.safetensors and OUT/config.json. heads: of a network of classify. Raises OSError on failure."""
    save_safetensors(dict(timm_entries(weights, heads)), out / WEIGHTS_NAME)
    content = timm_config(config, preprocessing, heads)
    (out / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n")


def timm_features(out: Path, images: Tensor, heads: ClassHead | None = None) -> Tensor:
    """Return what the tower that timm loads from the folder makes of images: (B, V, D) features after the final norm,
    or with the heads of a network of classify (B, classes) logits.

    Raises ValueError if timm cannot be imported.
    """
    tower = import_timm().create_model(f"local-dir:{out}", pretrained=True).eval()
    found: Tensor = tower.forward_features(images) if heads is None else tower(images)
    return found


def import_timm(remedy: str = "pip install -c constraints.txt timm, or pass --no-verify") -> ModuleType:
    """Import timm, which is optional. Raises ValueError if it cannot be imported."""
    importlib.import_module("pretrain.formats.cpu_torchvision")
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"timm is needed here ({reason}); {remedy}") from error


def timm_entries(weights: Iterable[tuple[str, Tensor]], heads: ClassHead | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters that an image alone passes through, under timm's names, each in its own memory.

    heads: of a network of classify, whose head is kept.
    """
    for name, tensor in weights:
        timm_name = name if heads is not None and name in CLASS_PARTS else _timm_name(name)
        if timm_name is not None:
            if timm_name == "pos_embed":
                tensor = tensor[POSITION_OFFSET:][None]  # (1, V, D)
            yield timm_name, tensor.detach().float().clone()


def timm_config(config: MultiwayConfig, preprocessing: Preprocessing, heads: ClassHead | None = None) -> dict[str, Any]:
    """Return the config.json of a local folder. Arguments as for `save_timm`."""
    size, num_classes = config.image_size, 0 if heads is None else heads.num_classes
    pool = "token" if heads is None else "avg"
    return {
        "architecture": ARCHITECTURES.get((config.dim, config.patch_size), next(iter(ARCHITECTURES.values()))),
        "num_classes": num_classes,
        "num_features": config.dim,
        "global_pool": pool,
        "model_args": {
            "img_size": size,
            "patch_size": config.patch_size,
            "embed_dim": config.dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": (config.ffn_dim + 0.5) / config.dim,  # timm truncates the product
            "global_pool": pool,
        },
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": preprocessing.interpolation,
            "crop_pct": 1.0,
            "crop_mode": preprocessing.crop_mode,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": num_classes,
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
