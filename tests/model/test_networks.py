"""Networks by their settings. CPU, seconds."""

import torch

from model.config import DualHeads
from model.dual_encoder import DualEncoder
from model.masked_data_model import MaskedDataModel
from model.networks import build_network
from tests.support.tiny import CONFIG


def test_heads_make_a_dual_encoder() -> None:
    with torch.device("meta"):
        pretrained, dual = build_network(CONFIG), build_network(CONFIG, DualHeads(masked_data=True))
    assert isinstance(pretrained, MaskedDataModel) and pretrained.encoder.config == CONFIG
    assert isinstance(dual, DualEncoder) and dual.heads == DualHeads(masked_data=True)
    assert set(pretrained.state_dict()) < set(dual.state_dict())
