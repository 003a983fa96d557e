"""The parameters that the loss of a task depends on.

The others have gradients of zero in every step, from runs on zero rows or from rows that nothing reads any more. Weight
decay would still shrink them, so a job gives them no learning rate, and they end as they began. (Rows of a block's
`vectors` share a parameter with trained ones; without weight decay, a gradient that is always zero leaves them alone.)
"""

from model.config import CaptionHead, ClassHead, MultiwayConfig, TaskHead, VqaHead


def is_trained(name: str, config: MultiwayConfig, heads: TaskHead) -> bool:
    """Return whether the loss of a task depends on a parameter. name: in the network that `build_network` returns."""
    if name.endswith("mask_token"):
        return False  # images are whole
    words = name.split(".")
    if isinstance(heads, ClassHead):
        return not {"text_embed", "language", "vision_language"} & set(words)
    if words[:2] != ["encoder", "blocks"] or words[-1] == "vectors":
        return True
    block, last = int(words[2]), config.depth - 1
    if words[3] == "experts" and block >= config.depth - config.num_vl_layers:
        return "vision_language" in words  # both parts of a pair use it; the other two run on zero rows
    # after the attention of the last block, a head reads some of the rows alone
    if block != last or words[4:5] == ["qkv"]:
        return True
    if isinstance(heads, VqaHead):
        return "language" not in words
    return not (isinstance(heads, CaptionHead) and "vision" in words)
