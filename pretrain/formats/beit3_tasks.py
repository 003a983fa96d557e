"""Finetuned networks in Microsoft's format: every task but retrieval, which is the dual encoder's (beit3_dual.py).

Beside the `beit3.` part, in which vqav2 and imagenet lack the final norm, they have

    vqav2        pooler.norm, pooler.dense, head.0, head.1, head.3
    nlvr2        head.norm1, head.dense1, head.norm2, head.dense2
    captioning   mlm_head
    imagenet     fc_norm, head

Source: unilm/beit3 modeling_finetune.py; README (VQA: 228M base, 683M large at 480 px; NLVR2: 226M, 681M; captioning:
271M, 739M).
"""

from collections.abc import Mapping

from torch import Tensor

from model.config import (
    CaptionHead,
    ClassHead,
    DualHeads,
    Heads,
    MultiwayConfig,
    Nlvr2Head,
    TaskHead,
    TaskName,
    VqaHead,
)
from pretrain.formats.beit3_contents import shape_in, task_heads
from pretrain.formats.beit3_dual import is_dual
from pretrain.formats.role import Role

TASK_PARTS = ("pooler.", "head.", "fc_norm.")
"""Beginnings of the names of the heads' parameters; their names are ours too."""
ROLES: dict[TaskName, Role] = {"vqa": "fusion", "nlvr2": "fusion", "caption": "fusion", "classify": "vision"}
"""The role of a file of each task: its network sees pairs, or images alone."""


def heads_of(entries: Mapping[str, Tensor], owner: object = "the file") -> Heads | None:
    """Return the heads of the finetuned network or dual encoder in a file, None if it holds neither, such as a
    pretraining checkpoint. owner: the file, for messages. Raises ValueError if a head is of an impossible shape."""
    if is_dual(entries):
        return DualHeads()
    if {"pooler.dense.weight", "head.3.weight"} <= entries.keys():
        return VqaHead(shape_in(owner, entries, "head.3.weight", 2)[0])
    if {"head.dense1.weight", "head.dense2.weight"} <= entries.keys():
        return Nlvr2Head()
    if {"fc_norm.weight", "head.weight"} <= entries.keys():
        return ClassHead(shape_in(owner, entries, "head.weight", 2)[0])
    has_words_alone = "mlm_head.weight" in entries and "mim_head.weight" not in entries
    return CaptionHead() if has_words_alone and not task_heads(entries) else None


def left_out(config: MultiwayConfig, heads: TaskHead) -> list[str]:
    """Return what a file leaves out of a network of ours, one sentence each."""
    if not config.num_vl_layers:
        return []
    if ROLES[heads.TASK] == "fusion":
        return [
            f"the vision and language experts of the top {config.num_vl_layers} layers are left out: image-text pairs "
            "do not pass through them"
        ]
    return [
        f"the vision-language experts of the top {config.num_vl_layers} layers are left out: images alone do not pass "
        "through them"
    ]


def in_words(heads: Heads) -> str:
    """Return the kind of network that has these heads, for messages."""
    match heads:
        case DualHeads():
            return "a dual encoder"
        case VqaHead():
            return f"finetuned for vqa, with {heads.num_answers} answers"
        case ClassHead():
            return f"finetuned for classify, with {heads.num_classes} classes"
        case _:
            return f"finetuned for {heads.TASK}"
