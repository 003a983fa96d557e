"""The networks of tasks: a Multiway Transformer, and the head of the task on some of its tokens.

| task     | network         | a packed step holds                                   | output of forward               |
| -------- | --------------- | ----------------------------------------------------- | ------------------------------- |
| vqa      | VqaNetwork      | B pairs of image and question                         | (B, answers) logits             |
| nlvr2    | Nlvr2Network    | 2 B pairs: first images, then second, same sentences  | (B, 2) logits of false and true |
| caption  | CaptionNetwork  | B pairs with the captioner's attention, masked words  | losses or logits of words       |
| classify | ClassifyNetwork | B images                                              | (B, classes) logits             |

model/task_inputs.py makes these inputs; retrieval is the task of the DualEncoder. Every expert runs in every step, if
need be on zero rows; model/trained_parameters.py says which parameters a task trains.

Source: unilm/beit3 modeling_finetune.py, whose names of parameters these are.

Shapes: B samples, V image tokens, C caption tokens, M masked words, W words of the vocabulary, D dim.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from model.config import (
    KEEP_EVERYTHING,
    CaptionHead,
    Checkpointing,
    ClassHead,
    KernelChoice,
    MultiwayConfig,
    Nlvr2Head,
    TaskHead,
    VqaHead,
)
from model.experts import FinalNorm
from model.kernels.backend import choose_backend
from model.layout import unpadded_texts
from model.multiway import MultiwayInputs, MultiwayTransformer
from model.objective import IGNORE_INDEX
from model.task_heads import Pooler, TruthHead, WordHead, answer_head

HeadT = TypeVar("HeadT", bound=TaskHead)


class TaskNetwork(nn.Module, Generic[HeadT]):
    """The encoder of a task's network. Subclasses add the head, whose settings are `heads`."""

    def __init__(self, encoder: MultiwayTransformer, heads: HeadT):
        super().__init__()
        assert isinstance(encoder.norm, FinalNorm) == heads.FINAL_NORM
        self.heads = heads
        self.encoder = encoder


class VqaNetwork(TaskNetwork[VqaHead]):
    """Chooses the answer to a question about an image."""

    def __init__(self, encoder: MultiwayTransformer, heads: VqaHead):
        super().__init__(encoder, heads)
        self.pooler = Pooler(encoder.config.dim)
        self.head = answer_head(encoder.config.dim, heads.num_answers)

    def forward(self, inputs: MultiwayInputs, drop_path_scale: Tensor | None = None) -> Tensor:
        """Return the logits of each pair's answers, (B, answers) float32."""
        states = self.encoder(inputs, drop_path_scale)
        logits: Tensor = self.head(self.pooler(states.images[:, 0]))
        return logits.float()


class Nlvr2Network(TaskNetwork[Nlvr2Head]):
    """Decides whether a sentence is true of two images."""

    def __init__(self, encoder: MultiwayTransformer, heads: Nlvr2Head):
        super().__init__(encoder, heads)
        self.head = TruthHead(encoder.config.dim)

    def forward(self, inputs: MultiwayInputs, drop_path_scale: Tensor | None = None) -> Tensor:
        """Return the logits of false and true, (B, 2) float32.

        inputs: the pairs of all B first images, then those of all B second ones; drop_path_scale: (depth, 2, 2 B).
        """
        states = self.encoder(inputs, drop_path_scale)
        first, second = torch.cat([states.images[:, 0], states.captions[:, 0]], dim=1).chunk(2)
        logits: Tensor = self.head(torch.cat([first, second], dim=1))
        return logits.float()


@dataclass(frozen=True, eq=False)
class CaptionTargets:
    """The masked words of captions, as in `model.masked_data_model.MaskedTargets`."""

    positions: Tensor
    """(B, K) masked positions, 0 if unused. The used ones come first."""
    labels: Tensor
    """(B, K) word ids, -100 if unused."""
    counts: tuple[int, ...] | None = None
    """Number of masked words of each caption, known to the host. None reads them from the device, which makes the host
    wait."""


class CaptionNetwork(TaskNetwork[CaptionHead]):
    """Predicts masked words of a caption from its image and the words before them; model/captioner.py writes captions
    with it."""

    def __init__(self, encoder: MultiwayTransformer, heads: CaptionHead):
        super().__init__(encoder, heads)
        self.mlm_head = WordHead(encoder.config.dim, encoder.config.vocab_size)

    def forward(
        self,
        inputs: MultiwayInputs,
        drop_path_scale: Tensor | None = None,
        targets: CaptionTargets | None = None,
        smoothing: float = 0.0,
        with_guesses: bool = False,
    ) -> Tensor:
        """Return the losses of the masked words in the order of the captions, (M,) float32, or without targets the
        logits of all positions, (B, C, W) float32.

        inputs: with causal_captions; smoothing: label smoothing, see `model.task_losses.smoothed_word_losses`;
        with_guesses: return (M, 2), the cross entropy without smoothing and whether the likeliest word is the label,
        for evaluation.
        """
        assert inputs.causal_captions, "a caption token must not see those after it"
        captions = self.encoder(inputs, drop_path_scale).captions
        if targets is None:
            logits: Tensor = self.mlm_head(captions)
            return logits.float()
        used = unpadded_texts(targets.labels == IGNORE_INDEX, targets.counts)
        rows = used.samples * captions.shape[1] + used.unpad(targets.positions)
        hidden, labels = captions.flatten(0, 1).index_select(0, rows), used.unpad(targets.labels)
        backend = choose_backend(self.encoder.kernels, hidden.device)
        losses: Tensor = self.mlm_head(hidden, labels, backend, with_guesses, 0.0 if with_guesses else smoothing)
        return losses


class ClassifyNetwork(TaskNetwork[ClassHead]):
    """Names the class of an image."""

    def __init__(self, encoder: MultiwayTransformer, heads: ClassHead):
        super().__init__(encoder, heads)
        self.fc_norm = nn.LayerNorm(encoder.config.dim)
        self.head = nn.Linear(encoder.config.dim, heads.num_classes)

    def forward(self, inputs: MultiwayInputs, drop_path_scale: Tensor | None = None) -> Tensor:
        """Return the logits of each image's classes, (B, classes) float32."""
        states = self.encoder(inputs, drop_path_scale)
        logits: Tensor = self.head(self.fc_norm(states.images[:, 1:].mean(1)))
        return logits.float()


def build_task_network(
    config: MultiwayConfig,
    heads: TaskHead,
    kernels: KernelChoice = "auto",
    checkpointing: Checkpointing = KEEP_EVERYTHING,
) -> VqaNetwork | Nlvr2Network | CaptionNetwork | ClassifyNetwork:
    """Return the network of a head with arbitrary weights."""
    encoder = MultiwayTransformer(config, kernels, checkpointing, has_final_norm=heads.FINAL_NORM)
    match heads:
        case VqaHead():
            return VqaNetwork(encoder, heads)
        case Nlvr2Head():
            return Nlvr2Network(encoder, heads)
        case CaptionHead():
            return CaptionNetwork(encoder, heads)
        case ClassHead():
            return ClassifyNetwork(encoder, heads)
