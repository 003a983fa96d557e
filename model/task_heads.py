"""Heads of tasks, with the names of Microsoft's finetuned files.

| task     | input                                        | layers                                                    |
| -------- | -------------------------------------------- | --------------------------------------------------------- |
| vqa      | class token, which has seen the question     | Pooler, linear to 2 D, norm, GELU, linear to answers      |
| nlvr2    | class token and <s> of both pairs, 4 D       | norm, linear to 2 D, norm, GELU, linear to false and true |
| caption  | masked words                                 | linear to words, the head of pretraining                  |
| classify | mean of the patches, without the class token | norm, linear to classes                                   |

Source: unilm/beit3 modeling_finetune.py.

Shapes: B samples, M masked words, D dim, W words of the vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from model.kernels.backend import Backend
from model.masked_data_model import PredictionHead
from model.task_losses import smoothed_word_losses


class Pooler(nn.Module):
    """tanh(dense(norm(class token)))"""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dense = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, D) -> (B, D)"""
        return torch.tanh(self.dense(self.norm(tokens)))


def answer_head(dim: int, num_answers: int) -> nn.Sequential:
    """Return the layers after the pooler, (B, D) -> (B, answers)."""
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.LayerNorm(2 * dim), nn.GELU(), nn.Linear(2 * dim, num_answers))


class TruthHead(nn.Module):
    """dense2(GELU(norm2(dense1(norm1(x))))), of two pairs at once."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(4 * dim)
        self.dense1 = nn.Linear(4 * dim, 2 * dim)
        self.norm2 = nn.LayerNorm(2 * dim)
        self.act = nn.GELU()
        self.dense2 = nn.Linear(2 * dim, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        """(B, 4 D) -> (B, 2), logits of false and of true."""
        logits: Tensor = self.dense2(self.act(self.norm2(self.dense1(self.norm1(pairs)))))
        return logits


class WordHead(PredictionHead):
    """The head of words, whose losses may be smoothed."""

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor | None = None,
        backend: Backend = "reference",
        with_guesses: bool = False,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Return what a PredictionHead does.

        smoothing: of the labels; the losses are then those of `smoothed_word_losses`, (M,) float32, of hidden (M, D)
        and labels (M,), none of them -100.
        """
        found = super().forward(hidden, labels, backend, with_guesses)
        if labels is None or with_guesses or not smoothing:
            return found
        # The logits of all words are not needed: the label's and their mean are products with one row of the weight and
        # with the mean of its rows.
        rows, weight = hidden.float(), self.weight
        label_logits = (rows * embedding(labels, weight).float()).sum(1) + self.bias[labels].float()
        mean_logits = rows @ weight.mean(0, dtype=torch.float32) + self.bias.mean(0, dtype=torch.float32)
        return smoothed_word_losses(found, label_logits, mean_logits, len(weight), smoothing)
