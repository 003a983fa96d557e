"""Every initial weight of the network, in one function.

| parameter                                     | initial value                                                     |
| --------------------------------------------- | ----------------------------------------------------------------- |
| linear and patch projection matrices          | normal(init_std), truncated at one standard deviation             |
| attn.proj and fc2 of block l = 1, 2, ...      | the same, divided by sqrt(2 l)                                    |
| heads of nlvr2 and classify                   | the same, times 0.001, as in Microsoft's finetuning               |
| word embeddings, positions, class, mask token | normal(embed_init_std), truncated at one standard deviation       |
| biases, LayerNorm                             | 0; weight 1, bias 0                                               |
| logit_scale                                   | ln(1 / 0.07), as in CLIP; ln 10 beside a logit_bias, as in SigLIP |
| logit_bias                                    | -10, as in SigLIP                                                 |

Every block adds two branches to the residual stream. The last matrix of a branch is divided by sqrt(2 l), because after
l blocks the stream is a sum of 2 l branches: each new branch then changes it by a similar share at the start of
training, and deep networks do not diverge.

Source: BEiT (unilm/beit modeling_pretrain.py) and BEiT-3, footnote 4. Word embeddings and text positions have no
published scheme; ours is that of the other embeddings.
"""

import math

import torch
from torch import Tensor, nn

from model.config import MultiwayConfig

SMALL_HEADS = ("head.dense1.weight", "head.dense2.weight", "head.weight")
"""Matrices of the heads of nlvr2 and classify, whose first answers are almost the same for all samples."""


@torch.no_grad()
def init_weights(model: nn.Module, config: MultiwayConfig, seed: int) -> None:
    """Fill every parameter of a MultiwayTransformer or of a network around one in place, from the seed alone.

    Raises ValueError if the table does not cover a parameter.
    """
    generator = torch.Generator().manual_seed(seed)

    def truncated_normal(parameter: Tensor, std: float) -> None:
        nn.init.trunc_normal_(parameter, std=std, a=-std, b=std, generator=generator)

    # the state dict has each norm and bias as a view, by its own name (model/stacked_vectors.py)
    parameters = model.state_dict()
    for name, parameter in parameters.items():
        if name == "logit_scale":
            nn.init.constant_(parameter, math.log(10 if "logit_bias" in parameters else 1 / 0.07))
        elif name == "logit_bias":
            nn.init.constant_(parameter, -10.0)
        elif parameter.ndim == 1 and name.endswith(".weight"):  # a norm's
            nn.init.ones_(parameter)
        elif name.endswith(".bias"):
            nn.init.zeros_(parameter)
        elif name.endswith(("word_embed.weight", "pos_embed", "cls_token", "mask_token")):
            truncated_normal(parameter, config.embed_init_std)
        elif name.endswith(".weight"):
            truncated_normal(parameter, config.init_std)
            if ".attn.proj." in name or name.endswith(".fc2.weight"):
                parameter.div_(math.sqrt(2 * _block_number(name)))
            elif name in SMALL_HEADS:
                parameter.mul_(0.001)
        else:
            raise ValueError(f"parameter {name} has no initial value; add it to the table in model/initialization.py")


def _block_number(name: str) -> int:
    """Return the number of a parameter's block, from 1: '...blocks.0....' -> 1."""
    return int(name.split("blocks.", 1)[1].split(".", 1)[0]) + 1
