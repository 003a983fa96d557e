"""A tiny dual encoder."""

from dataclasses import replace
from typing import Any

import torch

from model.config import DualHeads
from model.dual_encoder import DualEncoder
from model.initialization import init_weights
from tests.support.tiny import CONFIG


def tiny_dual_encoder(seed: int = 0, logit_bias: bool = False, **changes: Any) -> DualEncoder:
    """Return a dual encoder in which every parameter, norms included, is random and large enough to matter."""
    config = replace(CONFIG, **changes)
    model = DualEncoder(config, DualHeads(logit_bias=logit_bias))
    init_weights(model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
