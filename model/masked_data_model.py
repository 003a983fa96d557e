"""BEiT-3's objective: predict what was hidden, in images, in texts and in image-text pairs.

Only hidden positions reach the heads, and unused places where nothing is asked: a whole image has M of them. Losses are
sums here; who calls divides by the counts of the global batch.

Shapes: I image-only samples, P pairs, T texts; V image tokens, M masked patches an image; K masked positions a text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import KEEP_EVERYTHING, Checkpointing, KernelChoice, MultiwayConfig
from model.kernels.backend import Backend, choose_backend
from model.kernels.compiled import compiled
from model.kernels.masked_cross_entropy import masked_cross_entropy, torch_losses
from model.layout import tokens_of
from model.multiway import MultiwayInputs, MultiwayStates, MultiwayTransformer
from model.stochastic_depth import IGNORED


@dataclass(frozen=True, eq=False)
class MaskedTargets:
    """Where something was hidden, and what."""

    image_positions: Tensor
    """(I + P, M) indices of masked patches (0 = the first patch), in unused places any; image-only samples first."""
    visual_token_ids: Tensor
    """(I + P, M) codes of those patches; -100 in unused places."""
    caption_positions: Tensor
    """(P, Kc) masked positions; 0 in unused places."""
    caption_labels: Tensor
    """(P, Kc) word ids; -100 in unused places."""
    text_positions: Tensor
    """(T, Kt)"""
    text_labels: Tensor
    """(T, Kt)"""
    caption_counts: tuple[int, ...] | None = None
    """Used places of each caption, which stand before the others, known to the host. None: it asks the device."""
    text_counts: tuple[int, ...] | None = None

    def counts(self) -> Tensor:
        """(4,) float32 predictions asked for, in the order of OBJECTIVES."""
        num_pairs = len(self.caption_labels)
        images, pair_images = self.visual_token_ids.split([len(self.visual_token_ids) - num_pairs, num_pairs])
        labels = (images, self.text_labels, pair_images, self.caption_labels)
        return torch.stack([(part != IGNORED).sum() for part in labels]).float()


class PredictionHead(nn.Linear):
    """A linear head. Its losses come from inside its forward, because ZeRO-3 gathers its parameters for that alone."""

    def forward(self, hidden: Tensor, labels: Tensor | None = None, backend: Backend = "reference") -> Tensor:
        """hidden: (..., D). Without labels the logits (..., classes); with labels (...), -100 = none, the cross
        entropies in nats, (...) float32."""
        if labels is None:
            return super().forward(hidden)
        row_losses = compiled(torch_losses) if backend == "compile" else torch_losses
        flat = masked_cross_entropy(hidden.flatten(0, -2), self.weight, self.bias, labels.flatten(), row_losses)
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

    def forward(self, inputs: MultiwayInputs, targets: MaskedTargets, drop_path_scale: Tensor | None = None) -> Tensor:
        """Sums of cross entropies in nats, (4,) float32 in the order of OBJECTIVES."""
        states = self.encoder(inputs, drop_path_scale)
        backend = choose_backend(self.encoder.kernels, states.images.device)
        num_pairs = len(targets.caption_labels)
        num_images = len(targets.visual_token_ids) - num_pairs

        hidden = _gather(states.images, targets.image_positions + 1)  # past the class token
        mim, mvlm_image = self.mim_head(hidden, targets.visual_token_ids, backend).split([num_images, num_pairs])

        captions, caption_labels = _asked(
            states.captions, targets.caption_positions, targets.caption_labels, targets.caption_counts
        )
        texts, text_labels = _asked(states.texts, targets.text_positions, targets.text_labels, targets.text_counts)
        labels = torch.cat([caption_labels, text_labels])
        losses = self.mlm_head(torch.cat([captions, texts]), labels, backend)  # one call, so gathered once
        mvlm_text, mlm = losses.split([len(captions), len(texts)])
        return torch.stack([mim.sum(), mlm.sum(), mvlm_image.sum(), mvlm_text.sum()])

    def encode(self, inputs: MultiwayInputs) -> MultiwayStates:
        """Hidden states without heads."""
        return self.encoder(inputs)


def _asked(states: Tensor, positions: Tensor, labels: Tensor, counts: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """Of states (B, S, D) those at the used of positions (B, K), (M, D), and their labels, (M,)."""
    used = tokens_of(labels == IGNORED, counts)
    places = used.samples * states.shape[1] + used.take(positions)
    return states.flatten(0, 1).index_select(0, places), used.take(labels)


def _gather(states: Tensor, positions: Tensor) -> Tensor:
    """states (B, S, D) at positions (B, K) -> (B, K, D)"""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
