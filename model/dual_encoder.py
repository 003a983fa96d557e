"""The dual encoder: images and texts are encoded apart, and each becomes one vector on the unit sphere.

    image feature = normalize(vision_head(class token)),   text feature = normalize(language_head(first text token))
    logit of an image and a text = exp(logit_scale) <image feature, text feature> (+ logit_bias)

Source: Microsoft's BEiT3ForRetrieval (github.com/microsoft/unilm, beit3/modeling_finetune.py), whose keys these are,
and the maintainers' answer on how their `itc` files were trained (unilm issue 1347: separate inputs). Images and texts
of a call are rows of one packed step. It has no pairs, but every expert runs, the vision-language experts on zero rows.

Shapes: I image-only samples, P pairs, T texts; D dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from model.config import (
    KEEP_EVERYTHING,
    NO_FURTHER_HEADS,
    Checkpointing,
    DualHeads,
    KernelChoice,
    MultiwayConfig,
)
from model.kernels.backend import choose_backend
from model.masked_data_model import MaskedTargets, PredictionHead, masked_losses
from model.multiway import MultiwayInputs, MultiwayStates, MultiwayTransformer
from model.stacked_vectors import Stack, register_vectors, split_vectors


def logit_stacks(heads: DualHeads) -> tuple[Stack, ...]:
    """Return the single numbers of a dual encoder, in the order in which they lie in its parameter `vectors`."""
    names = ("logit_scale", "logit_bias") if heads.logit_bias else ("logit_scale",)
    return tuple(Stack(name, ("",), 1, is_scalar=True) for name in names)


class DualFeatures(NamedTuple):
    """Features of images and texts, float32 and of length 1, so that similarities are `images @ texts.T`."""

    images: Tensor
    """(I, D)"""
    texts: Tensor
    """(T, D)"""


class DualOutputs(NamedTuple):
    """The outputs of a forward. A tuple, because ZeRO-3's hooks look for tensors in tuples only."""

    images: Tensor
    """(I, D) features, as in DualFeatures; only of the samples without masked targets."""
    texts: Tensor
    """(T, D), likewise."""
    logit_scale: Tensor
    """(), float32: the natural logarithm of the factor of similarities."""
    logit_bias: Tensor | None
    """(), float32; None without a logit_bias."""
    masked_losses: Tensor | None
    """(4,) float32, the sums of `MaskedDataModel.forward`; None without heads of masked data modeling."""


class DualEncoder(nn.Module):
    """A Multiway Transformer with a projection of images and one of texts, both without bias and of its own width."""

    vectors: nn.Parameter
    """logit_scale and logit_bias, under these names in state dicts: see model/stacked_vectors.py."""

    def __init__(
        self,
        config: MultiwayConfig,
        heads: DualHeads = NO_FURTHER_HEADS,
        kernels: KernelChoice = "auto",
        checkpointing: Checkpointing = KEEP_EVERYTHING,
    ):
        super().__init__()
        self.heads = heads
        self.encoder = MultiwayTransformer(config, kernels, checkpointing)
        self.vision_head = nn.Linear(config.dim, config.dim, bias=False)
        self.language_head = nn.Linear(config.dim, config.dim, bias=False)
        self.stacks = logit_stacks(heads)
        register_vectors(self, self.stacks)
        if heads.masked_data:
            self.mim_head = PredictionHead(config.dim, config.num_visual_tokens)
            self.mlm_head = PredictionHead(config.dim, config.vocab_size)

    @property
    def logit_scale(self) -> Tensor:
        """The natural logarithm of the factor of similarities, (), a view of `vectors`."""
        return self.vectors[0]

    @property
    def logit_bias(self) -> Tensor | None:
        """The number added to the logits of the sigmoid loss, (), a view of `vectors`; None without one."""
        return self.vectors[1] if self.heads.logit_bias else None

    def forward(
        self, inputs: MultiwayInputs, drop_path_scale: Tensor | None = None, targets: MaskedTargets | None = None
    ) -> DualOutputs:
        """Return the features of a packed step, and what the losses need of the parameters.

        An engine around the network is called alike: `engine(inputs)` under torch.no_grad() gives `.images` and
        `.texts` for an evaluation, with the same modules in the same order as in a training step. Either may be of zero
        samples.

        targets: of masked data modeling, with heads.masked_data only. They cover the pairs, the last of the image-only
        samples and the last of the texts; the samples before those have features.
        """
        states = self.encoder(inputs, drop_path_scale)
        num_pairs = len(inputs.caption_ids)
        num_images, num_texts = len(inputs.images) - num_pairs, len(inputs.text_ids)
        sums: Tensor | None = None
        if self.heads.masked_data:
            targets = _no_targets(states) if targets is None else targets
            num_images = len(inputs.images) - len(targets.visual_token_ids)
            num_texts -= len(targets.text_labels)
            masked = MultiwayStates(states.images[num_images:], states.captions, states.texts[num_texts:])
            backend = choose_backend(self.encoder.kernels, states.images.device)
            found = masked_losses(masked, targets, self.mim_head, self.mlm_head, backend)
            assert isinstance(found, Tensor)
            sums = found
        logits = [number.view(()).float() for number in split_vectors(self.vectors, self.stacks)]
        return DualOutputs(
            images=_normalized(self.vision_head(states.images[:num_images, 0])),
            texts=_normalized(self.language_head(states.texts[:num_texts, 0])),
            logit_scale=logits[0],
            logit_bias=logits[1] if self.heads.logit_bias else None,
            masked_losses=sums,
        )

    @torch.no_grad()
    def features(self, inputs: MultiwayInputs) -> DualFeatures:
        """Return the features of images and of texts, for use; inputs: without pairs, and without masks."""
        outputs = self(inputs)
        return DualFeatures(outputs.images, outputs.texts)


def _normalized(projected: Tensor) -> Tensor:
    """Return rows of length 1 in float32: what bfloat16 rounds away, a factor of up to 100 would bring back."""
    return normalize(projected.float(), dim=-1)


def _no_targets(states: MultiwayStates) -> MaskedTargets:
    """Return targets of no sample, so that the heads run on zero rows: a forward never leaves out a module."""
    assert not len(states.captions), "pairs are only for masked data modeling, which needs targets"
    empty = torch.empty(0, 0, dtype=torch.int64, device=states.images.device)
    return MaskedTargets(empty, empty, empty, empty, empty, empty, (), ())
