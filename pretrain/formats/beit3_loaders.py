"""Loaders of files in Microsoft's format: torchscale with its arguments, their finetuning code with its options.

torchscale's BEiT3 takes any sizes. Their finetuning code builds two networks only, and prints a mismatch instead of
failing: it then trains from random weights. Which role a task needs follows from what its network is given:

| task                           | input                                  | role   |
| ------------------------------ | -------------------------------------- | ------ |
| imagenet                       | images alone                           | dual   |
| flickr30k, coco_retrieval      | images alone and texts alone           | dual   |
| vqav2, nlvr2                   | image-text pairs                       | fusion |
| coco_captioning, nocaps        | image-text pairs                       | fusion |

Without vision-language experts every role is the same file. Source: torchscale 0.3.0; unilm/beit3
run_beit3_finetuning.py, modeling_finetune.py, modeling_utils.py.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import ClassHead, DualHeads, Heads, MultiwayConfig, TaskName, VqaHead
from model.embeddings import POSITION_OFFSET
from pretrain.formats.beit3 import NUM_TEXT_ROWS
from pretrain.formats.role import Role


@dataclass(frozen=True)
class Task:
    """A task of their finetuning code."""

    name: str
    role: Role
    image_sizes: Mapping[str, tuple[int, ...]]
    """Sizes that their code registers a model for, by network."""


NETWORKS = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}
"""dim, depth, num_heads, ffn_dim of the networks that their code builds, with patches of 16 px."""
PATCH_SIZE = 16
DEFAULT_TEXT_LENGTH = 64
"""Default of --num_max_bpe_tokens."""
_AT_224, _RETRIEVAL = {"base": (224,), "large": (224,)}, {"base": (224, 384), "large": (384,)}
_CAPTIONING = {"base": (224, 480), "large": (480,)}
TASKS = (
    Task("imagenet", "dual", _AT_224),
    Task("flickr30k", "dual", _RETRIEVAL),
    Task("coco_retrieval", "dual", _RETRIEVAL),
    Task("vqav2", "fusion", {"base": (384, 480), "large": (384, 480, 768)}),
    Task("nlvr2", "fusion", _AT_224),
    Task("coco_captioning", "fusion", _CAPTIONING),
    Task("nocaps", "fusion", _CAPTIONING),
)


TASKS_OF: dict[TaskName, tuple[str, ...]] = {
    "vqa": ("vqav2",),
    "nlvr2": ("nlvr2",),
    "caption": ("coco_captioning", "nocaps"),
    "classify": ("imagenet",),
}
"""Their tasks for a finetuned network of ours."""
NUM_ANSWERS, NUM_CLASSES = 3129, 1000
"""Outputs of the heads that their code builds for vqav2 and imagenet."""


def exact_tasks(config: MultiwayConfig, role: Role, heads: Heads | None = None) -> list[Task]:
    """Return the tasks that a file of the role is exact for; of a finetuned network its own; of a dual encoder those
    that it is for, retrieval first, whose network has its projections too."""
    if heads is not None and not isinstance(heads, DualHeads):
        return [task for task in TASKS if task.name in TASKS_OF[heads.TASK]]
    if heads is not None:
        dual = [task for task in TASKS if task.role == "dual"]
        return sorted(dual, key=lambda task: task.image_sizes is not _RETRIEVAL)
    if config.num_vl_layers == 0:
        return list(TASKS)
    return [task for task in TASKS if (task.role == "fusion") == (role == "fusion")]


def inputs_of(role: Role) -> tuple[str, str]:
    """Return the inputs that a role is exact for, and those it is wrong for if there are vision-language experts."""
    both = "images alone and texts alone"
    return ("image-text pairs", both) if role == "fusion" else (both, "image-text pairs")


def torchscale_arguments(config: MultiwayConfig, has_final_norm: bool = True) -> dict[str, Any]:
    """Return the keyword arguments of torchscale's EncoderConfig for a file of this network."""
    return {
        "multiway": True,
        "layernorm_embedding": False,
        "normalize_output": has_final_norm,
        "no_output_layer": True,
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "vocab_size": config.vocab_size,
        "encoder_embed_dim": config.dim,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_layers": config.depth,
        "max_source_positions": max(NUM_TEXT_ROWS, config.max_text_length + POSITION_OFFSET),
    }


def why_not_finetuned(config: MultiwayConfig, heads: Heads | None = None) -> str | None:
    """Return why Microsoft's finetuning code cannot load a file of this network, None if it can."""
    sizes = (config.dim, config.depth, config.num_heads, config.ffn_dim)
    if sizes not in NETWORKS.values():
        built = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in NETWORKS.items())
        found = f"dim {config.dim}, depth {config.depth}, {config.num_heads} heads, ffn_dim {config.ffn_dim}"
        return f"not base or large, but {found} ({built})"
    if config.patch_size != PATCH_SIZE:
        return f"it builds patches of {PATCH_SIZE} px alone, these are of {config.patch_size} px"
    if config.max_text_length > NUM_TEXT_ROWS - POSITION_OFFSET:
        return f"it builds {NUM_TEXT_ROWS - POSITION_OFFSET} text positions, this network has {config.max_text_length}"
    if isinstance(heads, VqaHead) and heads.num_answers != NUM_ANSWERS:
        return f"it builds a head for {NUM_ANSWERS} answers, this network has {heads.num_answers}"
    if isinstance(heads, ClassHead) and heads.num_classes != NUM_CLASSES:
        return f"it builds a head for {NUM_CLASSES} classes, this network has {heads.num_classes}"
    return None


def finetuning_command(
    task: Task, config: MultiwayConfig, weights: Path, text_tokenizer: Path | None, is_finetuned: bool = False
) -> str:
    """Return the command line that finetunes a file of base or large, without the options of training; is_finetuned:
    that which evaluates the file of a finetuned network."""
    sizes = (config.dim, config.depth, config.num_heads, config.ffn_dim)
    network = next(name for name, values in NETWORKS.items() if values == sizes)
    # another size than that of the file is fine: their code interpolates the positions
    image_size = min(task.image_sizes[network], key=lambda size: abs(size - config.image_size))
    options = {
        "task": task.name,
        "model": f"beit3_{network}_patch{PATCH_SIZE}_{image_size}",
        "input_size": image_size,
        "vocab_size": config.vocab_size,
        "sentencepiece_model": text_tokenizer or "TOKENIZER",
        "finetune": weights,
        "data_path": "DATA",
        "output_dir": "RESULTS",
    }
    if config.max_text_length < DEFAULT_TEXT_LENGTH:
        options["num_max_bpe_tokens"] = config.max_text_length
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["python", "run_beit3_finetuning.py", *words, *(["--eval"] if is_finetuned else [])])
