"""Dual encoders in Microsoft's format: their `itc` files, and the models that were tuned for retrieval.

Beside the `beit3.` part they have two matrices without bias and a number, and none of the heads of pretraining:

    vision_head.weight      (D, D)   of the class token of an image
    language_head.weight    (D, D)   of the first token of a text
    logit_scale             ()       natural logarithm of the factor of similarities, at first ln(1 / 0.07)

Both features are normalised. Source: unilm/beit3 modeling_finetune.BEiT3ForRetrieval; README (222M base, 674M large).
"""

from collections.abc import Iterable

from model.config import DualHeads, MultiwayConfig

DUAL_PARTS = ("vision_head.weight", "language_head.weight", "logit_scale")
"""Parameters beside the encoder; their names are ours too."""
MASKED_DATA_HEADS = ("mim_head.", "mlm_head.")
NOT_IN_DUAL = ("logit_bias", *MASKED_DATA_HEADS)
"""Beginnings of the names of parameters that a dual encoder of ours may have, and none of theirs has."""


def is_dual(entries: Iterable[str]) -> bool:
    """Return whether a file with these names holds a dual encoder: it has DUAL_PARTS, and no head of pretraining."""
    names = set(entries)
    return names.issuperset(DUAL_PARTS) and not any(name.startswith(MASKED_DATA_HEADS) for name in names)


def left_out(config: MultiwayConfig, heads: DualHeads) -> list[str]:
    """Return what a file leaves out of a dual encoder of ours, one sentence each."""
    found = []
    if config.num_vl_layers:
        found.append(
            f"the vision-language experts of the top {config.num_vl_layers} layers are left out: neither images alone "
            "nor texts alone pass through them"
        )
    if heads.logit_bias:
        found.append("the logit_bias of the sigmoid loss is left out: the order of similarities does not depend on it")
    if heads.masked_data:
        found.append(
            "the heads of masked data modeling, mim_head and mlm_head, are left out, as Microsoft's dual encoders have "
            "none; --to safetensors keeps them"
        )
    return found
