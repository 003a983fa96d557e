"""BEiT-3's objective, masked data modeling: predict the masked parts of images, texts and image-text pairs.

Only masked positions reach the heads; the logits of a vocabulary at every position would take most of the memory. Image
positions are a rectangle (B, M), so an image without masked patches has M positions without labels.

Losses are sums. The caller divides them by the counts of the global batch: a mean per micro-batch would weight a
prediction by the number of others beside it, and the loss would depend on how the batch is split.

Shapes: I image-only samples, P pairs, T texts; V image tokens, M masked patches per image; K masked positions per text.
"""

from dataclasses import dataclass
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from model.config import KEEP_EVERYTHING, Checkpointing, KernelChoice, MultiwayConfig
from model.kernels.backend import Backend, choose_backend
from model.kernels.masked_cross_entropy import masked_cross_entropy, masked_guesses
from model.layout import UnpaddedTexts, unpadded_texts
from model.multiway import MultiwayInputs, MultiwayStates, MultiwayTransformer
from model.objective import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class MaskedTargets:
    """The masked positions and their labels."""

    image_positions: Tensor
    """(I + P, M) indices of masked patches, 0 = the first patch, arbitrary if unused; image-only samples first."""
    visual_token_ids: Tensor
    """(I + P, M) codes of those patches, -100 if unused."""
    caption_positions: Tensor
    """(P, Kc) masked positions, 0 if unused. The used ones come first, here and in the other three."""
    caption_labels: Tensor
    """(P, Kc) word ids, -100 if unused."""
    text_positions: Tensor
    """(T, Kt)"""
    text_labels: Tensor
    """(T, Kt)"""
    caption_counts: tuple[int, ...] | None = None
    """Number of masked positions of each caption, known to the host. None reads them from the device, which makes the
    host wait."""
    text_counts: tuple[int, ...] | None = None
    """Number of masked positions of each text, likewise."""

    def counts(self) -> Tensor:
        """Return the number of predictions, (4,) float32 in the order of `model.objective.OBJECTIVES`."""
        num_pairs = len(self.caption_labels)
        images, pair_images = self.visual_token_ids.split([len(self.visual_token_ids) - num_pairs, num_pairs])
        labels = (images, self.text_labels, pair_images, self.caption_labels)
        return torch.stack([(part != IGNORE_INDEX).sum() for part in labels]).float()


class Predictions(NamedTuple):
    """What an evaluation needs to know of a packed step, by sample; all float32.

    Each row of the first three has the sum of the cross entropies of a sample's masked positions in nats, the number of
    them that were guessed, and their number.
    """

    images: Tensor
    """(I + P, 3), image-only samples first."""
    captions: Tensor
    """(P, 3)"""
    texts: Tensor
    """(T, 3)"""
    features: Tensor
    """(I + P, 2 D), the class token and the mean of the patches."""


class PredictionHead(nn.Linear):
    """A linear head that also computes its losses.

    The losses are computed inside of its forward, since ZeRO-3 has gathered its parameters there only.
    """

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor | None = None,
        backend: Backend = "reference",
        with_guesses: bool = False,
    ) -> Tensor:
        """Return the logits (..., classes) of hidden (..., D), or with labels (...) the cross entropies in nats, (...)
        float32, 0 for the label -100.

        with_guesses: return (..., 2), the cross entropy and whether the likeliest class is the label, for evaluation.
        """
        if labels is None:
            return super().forward(hidden)
        if with_guesses:
            guesses = masked_guesses(hidden.flatten(0, -2), self.weight, self.bias, labels.flatten())
            return guesses.view(*labels.shape, 2)
        flat = masked_cross_entropy(hidden.flatten(0, -2), self.weight, self.bias, labels.flatten(), backend)
        return flat.view(labels.shape)


class MaskedDataModel(nn.Module):
    """A Multiway Transformer with its two pretraining heads, linear and untied as in the released checkpoints."""

    def __init__(
        self, config: MultiwayConfig, kernels: KernelChoice = "auto", checkpointing: Checkpointing = KEEP_EVERYTHING
    ):
        super().__init__()
        self.encoder = MultiwayTransformer(config, kernels, checkpointing)
        self.mim_head = PredictionHead(config.dim, config.num_visual_tokens)
        self.mlm_head = PredictionHead(config.dim, config.vocab_size)

    @overload
    def forward(
        self, inputs: MultiwayInputs, targets: MaskedTargets, drop_path_scale: Tensor | None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self, inputs: MultiwayInputs, targets: MaskedTargets, drop_path_scale: Tensor | None, by_sample: bool
    ) -> Tensor | Predictions: ...

    def forward(
        self,
        inputs: MultiwayInputs,
        targets: MaskedTargets,
        drop_path_scale: Tensor | None = None,
        by_sample: bool = False,
    ) -> Tensor | Predictions:
        """Return the sums of cross entropies in nats, (4,) float32 in the order of `model.objective.OBJECTIVES`.

        by_sample: return predictions of each sample instead, for evaluation. The modules run in the same order, so that
        ZeRO-3 gathers as in a training step.
        """
        states = self.encoder(inputs, drop_path_scale)
        backend = choose_backend(self.encoder.kernels, states.images.device)
        return masked_losses(states, targets, self.mim_head, self.mlm_head, backend, by_sample)

    def encode(self, inputs: MultiwayInputs) -> MultiwayStates:
        """Return the hidden states, without heads."""
        return self.encoder(inputs)


def masked_losses(
    states: MultiwayStates,
    targets: MaskedTargets,
    mim_head: PredictionHead,
    mlm_head: PredictionHead,
    backend: Backend,
    by_sample: bool = False,
) -> Tensor | Predictions:
    """Return what `MaskedDataModel.forward` returns, from the hidden states."""
    num_pairs = len(targets.caption_labels)
    num_images = len(targets.visual_token_ids) - num_pairs

    # images ask for M positions each, a rectangle; texts of different lengths ask for different numbers of words
    hidden = _gather(states.images, targets.image_positions + 1)  # + 1: the class token is first
    patches = mim_head(hidden, targets.visual_token_ids, backend, by_sample)

    captions, used_captions = _masked_rows(
        states.captions, targets.caption_positions, targets.caption_labels, targets.caption_counts
    )
    texts, used_texts = _masked_rows(states.texts, targets.text_positions, targets.text_labels, targets.text_counts)
    labels = torch.cat([used_captions.unpad(targets.caption_labels), used_texts.unpad(targets.text_labels)])
    # one call for captions and texts, so that ZeRO-3 gathers the head once
    words = mlm_head(torch.cat([captions, texts]), labels, backend, by_sample)
    of_captions, of_texts = words.split([len(captions), len(texts)])
    if by_sample:
        return Predictions(
            images=_summed(patches, targets.visual_token_ids),
            captions=_summed(used_captions.pad(of_captions, targets.caption_labels.shape[1]), targets.caption_labels),
            texts=_summed(used_texts.pad(of_texts, targets.text_labels.shape[1]), targets.text_labels),
            features=torch.cat([states.images[:, 0], states.images[:, 1:].mean(1)], 1).float(),
        )
    mim, mvlm_image = patches.split([num_images, num_pairs])
    return torch.stack([mim.sum(), of_texts.sum(), mvlm_image.sum(), of_captions.sum()])


def _masked_rows(
    states: Tensor, positions: Tensor, labels: Tensor, counts: tuple[int, ...] | None
) -> tuple[Tensor, UnpaddedTexts]:
    """Return the states at the used positions, (M, D), and which of the positions (B, K) are used.

    states: (B, S, D); positions, labels: (B, K), of which the label -100 marks the unused, as if it were padding.
    """
    used = unpadded_texts(labels == IGNORE_INDEX, counts)
    rows = used.samples * states.shape[1] + used.unpad(positions)
    return states.flatten(0, 1).index_select(0, rows), used


def _summed(guesses: Tensor, labels: Tensor) -> Tensor:
    """Return (B, 3), sums over K and the number of labels, of guesses (B, K, 2) and labels (B, K)."""
    # by rows, not by adding to an index: the order of a sum, and with it the bits, is the same in every evaluation
    return torch.cat([guesses.sum(1), (labels != IGNORE_INDEX).sum(1, keepdim=True)], 1)


def _gather(states: Tensor, positions: Tensor) -> Tensor:
    """Return states (B, S, D) at positions (B, K), (B, K, D)."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
