"""Features of a network for images, texts or pairs: a token, a mean, all tokens, or a map; of its output, or of blocks.

| pool      | image (D,)                | text (D,)              | pair (D,)                              |
| --------- | ------------------------- | ---------------------- | -------------------------------------- |
| projected | class token, vision_head  | <s>, language_head     | -                                      |
| class     | class token               | <s>                    | class token, which has seen the text   |
| mean      | patches                   | words                  | patches and words                      |
| tokens    | class token, patches (V,) | all, (L,)              | the image's, then the text's (V + L,)  |
| map       | patches (D, rows, cols)   | -                      | patches of the image                   |

With `layers`, a leading dimension of K layers is added.

Shapes: B samples, V image tokens, L text tokens, D dim, K layers.
"""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from data_pipeline.samples.sample import Kind
from data_pipeline.texts.tokenizer import PAD_ID
from model.config import TaskName
from model.dual_encoder import DualEncoder
from model.multiway import BlockStates, MultiwayInputs, MultiwayStates
from model.networks import Network
from model.task_networks import TaskNetwork
from pretrain.inference.options import Pool

TRAIN_HEADS = "train them with python -m pretrain.contrast, or open Microsoft's itc or retrieval file"

FEATURES_OF: dict[TaskName, tuple[Kind, ...]] = {
    "vqa": ("pair",),
    "nlvr2": ("pair",),
    "classify": ("image",),
    "caption": (),
}
"""Kinds of samples that the network of a task is trained on; a captioner sees no whole captions."""


@dataclass(frozen=True)
class FeatureChoice:
    """Features to take, checked against the network."""

    pool: Pool
    layers: tuple[int, ...] = ()
    """Numbers of blocks, 1 = the first. Empty: the network's output."""

    def __str__(self) -> str:
        if self.pool == "projected":
            return "projected by the contrastive head"
        words = {"class": "class token", "mean": "mean of the tokens", "tokens": "all tokens", "map": "map of patches"}
        place = f"after blocks {', '.join(map(str, self.layers))}" if self.layers else "of the last layer"
        return f"{words[self.pool]} {place}"


def choose_features(
    network: Network, kind: Kind, pool: Pool | None = None, layers: tuple[int, ...] = ()
) -> FeatureChoice:
    """Return the features to take. pool None: projected if the network can and no layers are given, else mean.

    Raises ValueError if the network does not have such features of samples of this kind.
    """
    depth = network.encoder.config.depth
    wrong = [layer for layer in layers if not 1 <= layer <= depth]
    if wrong:
        raise ValueError(f"layer {wrong[0]} is not a block of this network; give numbers from 1 to {depth}")
    is_dual = isinstance(network, DualEncoder)
    if isinstance(network, DualEncoder) and kind == "pair" and not network.heads.masked_data:
        raise ValueError(
            "a dual encoder is not trained on pairs; encode their images and texts, or open the weights that it began "
            "with"
        )
    if isinstance(network, TaskNetwork) and kind not in FEATURES_OF[network.heads.TASK]:
        raise ValueError(
            f"a network of {network.heads.TASK} is not trained on samples of kind {kind}; open the weights that it "
            "began with"
        )
    if pool not in (None, *get_args(Pool)):
        raise ValueError(f"pool {pool!r:.60} must be one of {', '.join(get_args(Pool))}")
    if pool is None:
        pool = "projected" if is_dual and kind != "pair" and not layers else "mean"
    if pool == "projected":
        if not is_dual:
            raise ValueError(f"these weights have no contrastive heads; {TRAIN_HEADS}, or choose another pool")
        if kind == "pair" or layers:
            what = "pairs: encode their images and texts" if kind == "pair" else "layers: leave out one of both"
            raise ValueError(f"the contrastive heads do not project {what}")
    if pool == "map" and kind == "text":
        raise ValueError("a text has no map of patches; choose the pool tokens")
    return FeatureChoice(pool, layers)


@torch.no_grad()
def features(network: Network, inputs: MultiwayInputs, kind: Kind, choice: FeatureChoice) -> Tensor:
    """Return the features of samples of one kind, (B, ...) float32: see the table above.

    inputs: of this kind alone, without masks.
    """
    if choice.pool == "projected":
        assert isinstance(network, DualEncoder)
        found = network.features(inputs)
        return found.images if kind == "image" else found.texts
    block_states = BlockStates(frozenset(choice.layers))
    states = network.encoder(inputs, block_states=block_states)
    if not choice.layers:
        return pooled(states, inputs, kind, choice.pool)
    of_layers = (pooled(block_states.states[layer], inputs, kind, choice.pool) for layer in choice.layers)
    return torch.stack(list(of_layers), dim=1)


def pooled(states: MultiwayStates, inputs: MultiwayInputs, kind: Kind, pool: Pool) -> Tensor:
    """Return the features of the states of one layer, (B, ...) float32, without a projection."""
    images, texts = states.images.float(), (states.captions if kind == "pair" else states.texts).float()
    padding = inputs.caption_padding if kind == "pair" else inputs.text_padding
    if pool == "class":
        return texts[:, 0] if kind == "text" else images[:, 0]
    if pool == "tokens":
        parts = {"image": [images], "text": [texts], "pair": [images, texts]}[kind]
        return torch.cat(parts, dim=1)
    if pool == "map":
        return images[:, 1:].transpose(1, 2).unflatten(2, (math.isqrt(images.shape[1] - 1), -1))
    patches, words = images[:, 1:], words_of(padding)
    if kind == "image":
        return patches.mean(1)
    total, count = (texts * words[..., None]).sum(1), words.sum(1, keepdim=True)
    if kind == "pair":
        total, count = total + patches.sum(1), count + patches.shape[1]
    return total / count


def words_of(padding: Tensor) -> Tensor:
    """Return (B, L) bool, True for the tokens of padded texts but <s> and </s>."""
    is_inner = ~padding
    is_inner[:, 0] = False
    ends = (~padding).sum(1, keepdim=True) - 1
    return is_inner.scatter(1, ends.clamp(min=0), False) if is_inner.shape[1] else is_inner


def inputs_of(kind: Kind, network: Network, pixels: Tensor | None, ids: Tensor | None) -> MultiwayInputs:
    """Return the network's inputs for samples of one kind, without masks.

    pixels: (B, 3, S, S) as the network takes them, None for texts; ids: (B, L) on the host, filled up with PAD_ID, None
    for images.
    """
    parameter = next(network.parameters())
    device, size = parameter.device, network.encoder.config.image_size
    no_ids = torch.zeros(0, 1, dtype=torch.int64)
    pixels = torch.zeros(0, 3, size, size, device=device, dtype=parameter.dtype) if pixels is None else pixels
    ids = no_ids if ids is None else ids
    captions, texts = (ids, no_ids) if kind == "pair" else (no_ids, ids)
    patch_size = network.encoder.config.patch_size
    num_patches = (pixels.shape[2] // patch_size) * (pixels.shape[3] // patch_size)
    return MultiwayInputs(
        images=pixels,
        image_mask=torch.zeros(len(pixels), num_patches, dtype=torch.bool, device=device),
        caption_ids=captions.to(device),
        caption_padding=(captions == PAD_ID).to(device),
        text_ids=texts.to(device),
        text_padding=(texts == PAD_ID).to(device),
        caption_lengths=_lengths(captions),
        text_lengths=_lengths(texts),
    )


def _lengths(ids: Tensor) -> tuple[int, ...]:
    return tuple((ids != PAD_ID).sum(1).tolist())
