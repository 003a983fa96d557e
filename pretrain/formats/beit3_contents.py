"""Contents of a file of Microsoft's: the sizes of its network, and its heads.

Published are pretraining checkpoints, which have both heads, and checkpoints tuned for a task: those have the head of
their task instead of one or both, and some lack the final norm, which their task does not use.

Source: unilm/beit3 modeling_finetune.py.
"""

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from model.config import MultiwayConfig
from model.embeddings import POSITION_OFFSET

TEXT_POSITIONS = "beit3.encoder.embed_positions.B.weight"
TASK_HEADS = ("fc_norm", "head", "pooler", "vision_head", "language_head", "logit_scale")
"""First words of the parameters that finetuning adds."""
PRETRAINING_PARTS = {
    "mim_head": "mim_head.",
    "mlm_head": "mlm_head.",
    "encoder.layer_norm": "beit3.encoder.layer_norm.",
}
"""Parts that pretraining checkpoints have and tuned ones may lack: name in messages, prefix of its parameters."""
NUM_HEADS = {(768, 12, 3072): 12, (1024, 24, 4096): 16, (1408, 40, 6144): 16}
"""Attention heads by dim, depth and ffn_dim of the published networks; the files do not record them."""


def config_of(
    entries: Mapping[str, Tensor],
    num_heads: int | None,
    max_text_length: int | None = None,
    num_visual_tokens: int = MultiwayConfig.num_visual_tokens,
    owner: object = "the file",
) -> MultiwayConfig:
    """Return the sizes of the network in a file.

    num_heads, max_text_length: from the card, if one lies beside it; num_visual_tokens: for a file without a mim_head;
    owner: the file, for messages. Raises ValueError if they cannot be inferred.
    """
    vocab_size, dim = shape_in(owner, entries, "beit3.text_embed.weight", 2)
    _, _, patch_size, _ = shape_in(owner, entries, "beit3.vision_embed.proj.weight", 4)
    num_rows, _ = shape_in(owner, entries, "beit3.encoder.embed_positions.A.weight", 2)
    num_text_rows, _ = shape_in(owner, entries, TEXT_POSITIONS, 2)
    ffn_dim, _ = shape_in(owner, entries, "beit3.encoder.layers.0.ffn.A.fc1.weight", 2)
    if "mim_head.weight" in entries:
        num_visual_tokens, _ = shape_in(owner, entries, "mim_head.weight", 2)
    layers = {int(match[1]) for name in entries if (match := re.match(r"beit3\.encoder\.layers\.(\d+)\.", name))}
    sizes = (dim, len(layers), ffn_dim)
    published = NUM_HEADS.get(sizes)
    if num_heads is None and published is None:
        raise ValueError(f"dim, depth, ffn_dim {sizes} are not published, and no file holds heads; give --num-heads")
    if None not in (num_heads, published) and num_heads != published:
        raise ValueError(f"the published network of dim, depth, ffn_dim {sizes} has {published} heads, not {num_heads}")
    side = math.isqrt(max(0, num_rows - POSITION_OFFSET - 1))
    try:
        return MultiwayConfig(
            dim=dim,
            depth=len(layers),
            num_heads=num_heads or published or 0,
            ffn_dim=ffn_dim,
            attention="decoupled",
            image_size=side * patch_size,
            patch_size=patch_size,
            vocab_size=vocab_size,
            num_visual_tokens=num_visual_tokens,
            max_text_length=max_text_length or num_text_rows - POSITION_OFFSET,
        )
    except ValueError as error:
        raise ValueError(f"{owner} is not a BEiT-3 of known sizes: {error}") from error


def shape_in(owner: object, entries: Mapping[str, Tensor], name: str, num_dimensions: int) -> tuple[int, ...]:
    """Return the shape of a tensor. Raises ValueError if there is none with that number of dimensions."""
    if name not in entries:
        raise ValueError(f"{owner} has no {name}: it is not a BEiT-3 checkpoint")
    shape = tuple(entries[name].shape)
    if len(shape) != num_dimensions or 0 in shape:
        raise ValueError(
            f"{owner} has {shape} for {name}, expected {num_dimensions} dimensions: it is not a BEiT-3 checkpoint"
        )
    return shape


def task_heads(entries: Iterable[str]) -> list[str]:
    """Return the parameters that only one of Microsoft's tasks uses."""
    return sorted(name for name in entries if name.split(".")[0] in TASK_HEADS)


def missing_parts(entries: Iterable[str]) -> dict[str, str]:
    """Return those of PRETRAINING_PARTS that the file has nothing of."""
    names = list(entries)
    return {
        part: prefix for part, prefix in PRETRAINING_PARTS.items() if not any(name.startswith(prefix) for name in names)
    }


def kind_of(entries: Iterable[str]) -> str:
    """Return the kind of file that it is, for a message about a missing part."""
    heads = task_heads(entries)
    if not heads:
        return "it is not a pretraining checkpoint, which has both heads"
    return f"it was tuned for a task and has {', '.join(heads)} instead"
