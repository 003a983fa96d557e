"""Masked data modeling with torchscale's BEiT3, as it is commonly used: three passes per step, one per kind of data.

It has the same two linear heads as ours, on hidden positions only. torchscale 0.3.0 computes attention with an explicit
softmax, and its configuration offers no other; its LayerNorm is that of NVIDIA apex if installed.

Shapes: B samples, V image tokens, K hidden positions per sample, D dim.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.config import MultiwayConfig
from model.layout import unpadded_texts
from model.objective import IGNORE_INDEX
from pretrain.formats.beit3 import beit3_entries
from tests.benchmarks.step_cases import Batch
from tests.support.torchscale_beit3 import build_torchscale_beit3

Use = Literal["image", "text", "pair"]
USES: tuple[Use, ...] = ("image", "text", "pair")


class TorchscalePretraining(nn.Module):
    """torchscale's BEiT3 and two heads; its parameters have the names of Microsoft's files."""

    def __init__(self, config: MultiwayConfig):
        super().__init__()
        self.beit3 = build_torchscale_beit3(
            dim=config.dim,
            depth=config.depth,
            num_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            image_size=config.image_size,
            patch_size=config.patch_size,
            vocab_size=config.vocab_size,
            max_text_positions=config.max_text_length + 2,
        )
        self.mim_head = nn.Linear(config.dim, config.num_visual_tokens)
        self.mlm_head = nn.Linear(config.dim, config.vocab_size)

    def forward(self, use: Use, batch: Batch) -> Tensor:
        """Return sums of cross entropies in nats, (4,) float32 in the order of OBJECTIVES, 0 for other data."""
        inputs, targets = batch.inputs, batch.targets
        num_images = len(inputs.images) - len(inputs.caption_ids)
        mine = slice(num_images) if use == "image" else slice(num_images, None)
        sums: dict[str, Tensor] = {}
        if use == "text":
            states = self._encode(textual_tokens=inputs.text_ids, text_padding_position=inputs.text_padding)
            asked = (targets.text_positions, targets.text_labels, targets.text_counts)
            sums["mlm"] = _loss_sum(self.mlm_head, states, *asked)
        else:
            images = {"visual_tokens": inputs.images[mine], "vision_masked_position": inputs.image_mask[mine]}
            captions = {"textual_tokens": inputs.caption_ids, "text_padding_position": inputs.caption_padding}
            states = self._encode(**images) if use == "image" else self._encode(**images, **captions)
            places = targets.image_positions[mine] + 1  # past the class token
            name = "mim" if use == "image" else "mvlm_image"
            sums[name] = _loss_sum(self.mim_head, states, places, targets.visual_token_ids[mine])
        if use == "pair":
            places = targets.caption_positions + inputs.image_mask.shape[1] + 1
            sums["mvlm_text"] = _loss_sum(self.mlm_head, states, places, targets.caption_labels, targets.caption_counts)
        nothing = states.new_zeros((), dtype=torch.float32)
        return torch.stack([sums.get(name, nothing) for name in ("mim", "mlm", "mvlm_image", "mvlm_text")])

    def _encode(self, **inputs: Tensor) -> Tensor:
        return self.beit3(**inputs)["encoder_out"]


def _loss_sum(
    head: nn.Module, states: Tensor, positions: Tensor, labels: Tensor, counts: tuple[int, ...] | None = None
) -> Tensor:
    """Return the loss of states (B, S, D) at the first counts of positions (B, K); None = all."""
    used = unpadded_texts(labels == IGNORE_INDEX, counts or (labels.shape[1],) * len(labels))
    places = used.samples * states.shape[1] + used.unpad(positions)
    logits = head(states.flatten(0, 1).index_select(0, places))
    return cross_entropy(logits.float(), used.unpad(labels), reduction="sum")


def with_our_weights(weights: Mapping[str, Tensor], config: MultiwayConfig) -> TorchscalePretraining:
    """Return the network in training mode, on the device of the weights. Raises RuntimeError if a name is unknown."""
    with next(iter(weights.values())).device:
        peer = TorchscalePretraining(config)
    state = dict(beit3_entries(weights.items(), config, "dual"))
    peer.load_state_dict(state, strict=True)
    return peer.train()


def passes(parts: list[Batch]) -> Iterator[tuple[Use, Batch]]:
    """Yield the micro-steps of a step."""
    for part in parts:
        for use in USES:
            yield use, part
