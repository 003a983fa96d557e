"""The networks that are trained and converted, by their settings."""

from model.config import KEEP_EVERYTHING, Checkpointing, DualHeads, Heads, KernelChoice, MultiwayConfig
from model.dual_encoder import DualEncoder
from model.masked_data_model import MaskedDataModel
from model.task_networks import (
    CaptionNetwork,
    ClassifyNetwork,
    Nlvr2Network,
    VqaNetwork,
    build_task_network,
)

TaskNetworks = VqaNetwork | Nlvr2Network | CaptionNetwork | ClassifyNetwork
"""A network of each task but retrieval."""
Network = MaskedDataModel | DualEncoder | TaskNetworks
WordNetwork = MaskedDataModel | DualEncoder | CaptionNetwork
"""Networks that may have a head for words; a DualEncoder has one if masked data modeling went on beside."""


def build_network(
    config: MultiwayConfig,
    heads: Heads | None = None,
    kernels: KernelChoice = "auto",
    checkpointing: Checkpointing = KEEP_EVERYTHING,
) -> Network:
    """Return a network with arbitrary weights. heads: those of a DualEncoder or of a task's network; None builds a
    MaskedDataModel."""
    if heads is None:
        return MaskedDataModel(config, kernels, checkpointing)
    if isinstance(heads, DualHeads):
        return DualEncoder(config, heads, kernels, checkpointing)
    return build_task_network(config, heads, kernels, checkpointing)
