"""Every initial weight is set, by the table in model/initialization.py."""

import math

import pytest
import torch
from torch import nn

from model.config import CaptionHead, ClassHead, MultiwayConfig, Nlvr2Head, TaskHead, VqaHead
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from model.networks import build_network

CONFIG = MultiwayConfig(
    dim=64, depth=4, num_heads=4, ffn_dim=256, num_vl_layers=2, image_size=32, patch_size=8, vocab_size=500,
    num_visual_tokens=300, max_text_length=40, embed_init_std=0.05,
)  # fmt: skip
TRUNCATED = 0.53956  # standard deviation of a unit normal truncated at one standard deviation


@pytest.mark.parametrize("attention", ["shared", "decoupled"])
def test_no_weight_is_forgotten_and_each_follows_the_scheme(attention: str) -> None:
    config = MultiwayConfig(**{**CONFIG.__dict__, "attention": attention})
    model = MaskedDataModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    init_weights(model, config, seed=0)

    for name, parameter in model.state_dict().items():
        assert parameter.isfinite().all(), name
        if name.endswith(".bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            is_embedding = name.endswith(("word_embed.weight", "pos_embed", "cls_token", "mask_token"))
            std = config.embed_init_std if is_embedding else config.init_std
            if ".attn.proj." in name or ".fc2." in name:
                std /= math.sqrt(2 * (int(name.split(".")[2]) + 1))
            assert parameter.abs().max() <= std * 1.0001, name
            assert float(parameter.detach().std()) == pytest.approx(
                std * TRUNCATED, rel=6 / math.sqrt(parameter.numel())
            ), name


@pytest.mark.parametrize("heads", [VqaHead(9), Nlvr2Head(), CaptionHead(), ClassHead(9)], ids=str)
def test_heads_of_tasks_are_those_of_microsofts_code(heads: TaskHead) -> None:
    """Normal of 0.02, truncated at one standard deviation; those of nlvr2 and classify a thousandth of it."""
    network = build_network(CONFIG, heads)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
    init_weights(network, CONFIG, seed=0)
    for name, parameter in network.state_dict().items():
        assert parameter.isfinite().all(), name
        if name.startswith("encoder."):
            continue
        if name.endswith(".bias"):
            assert (parameter == 0).all(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 * (0.001 if isinstance(heads, Nlvr2Head | ClassHead) else 1)
            assert parameter.abs().max() <= std * 1.0001, name
            assert float(parameter.std()) == pytest.approx(std * TRUNCATED, rel=6 / math.sqrt(parameter.numel())), name


def test_weights_follow_from_the_seed() -> None:
    models = [MaskedDataModel(CONFIG) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        init_weights(model, CONFIG, seed)
    first, same, other = (model.mlm_head.weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_an_unknown_parameter_is_refused() -> None:
    model = MaskedDataModel(CONFIG)
    model.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="parameter extra has no initial value"):
        init_weights(model, CONFIG, 0)
