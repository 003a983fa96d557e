"""The networks that are trained and converted, by their settings."""

from model.config import DualHeads, MultiwayConfig
from model.dual_encoder import DualEncoder
from model.masked_data_model import MaskedDataModel

Network = MaskedDataModel | DualEncoder


def build_network(config: MultiwayConfig, heads: DualHeads | None = None) -> Network:
    """Return a network with arbitrary weights. heads: those of a DualEncoder; None builds a MaskedDataModel."""
    return MaskedDataModel(config) if heads is None else DualEncoder(config, heads)
