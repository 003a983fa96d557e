"""Losses of tasks, one per sample or per word: the caller divides their sum by the counts of the global batch.

| task     | loss                                                                                                   |
| -------- | ------------------------------------------------------------------------------------------------------ |
| vqa      | binary cross entropy of every answer with its score, summed over the answers                            |
| nlvr2    | cross entropy of false and true                                                                        |
| classify | cross entropy, with label smoothing or with the soft targets of mixup and cutmix                        |
| caption  | Kullback-Leibler divergence of a masked word from its smoothed label; the worst may be left out         |

Microsoft's loss of vqa is a mean over samples and answers, times the number of answers: this sum over answers.
Source: unilm/beit3 engine_for_finetuning.py, utils.py (BertCaptioningLoss).

Shapes: B samples, A answers, C classes, M masked words.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


def vqa_losses(logits: Tensor, scores: Tensor) -> Tensor:
    """Return the loss of each sample, (B,) float32. logits: (B, A); scores: (B, A), from 0 to 1."""
    return binary_cross_entropy_with_logits(logits.float(), scores.float(), reduction="none").sum(1)


def class_losses(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy of each sample, (B,) float32.

    logits: (B, C); targets: (B,) int64 classes, or (B, C) probabilities; smoothing: share of the target's probability
    that all classes get in equal parts.
    """
    targets = targets.float() if targets.is_floating_point() else targets
    return cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)


def smoothed_word_losses(
    cross_entropies: Tensor, label_logits: Tensor, mean_logits: Tensor, num_words: int, smoothing: float
) -> Tensor:
    """Return the divergence of each predicted distribution p from the smoothed label q, (M,) float32.

    q is 1 - s for the label y and s / (n - 1) for each of the n - 1 other words; with logits z and c = -log p_y

        sum_w q_w log(q_w / p_w) = sum_w q_w log q_w + c + s n / (n - 1) (z_y - mean(z))

    cross_entropies: (M,), c; label_logits: (M,), z_y; mean_logits: (M,), mean(z); num_words: n; smoothing: s.
    """
    others = max(num_words - 1, 1)
    entropy = _xlogx(1 - smoothing) + (others * _xlogx(smoothing / others) if smoothing else 0.0)
    return entropy + cross_entropies + smoothing * num_words / others * (label_logits - mean_logits)


def without_worst(losses: Tensor, drop_ratio: float) -> Tensor:
    """Return which losses count, (M,) float32 of ones and zeros: all but the largest.

    int(M * (1 - drop_ratio)) of them count; of equal losses the first. losses: (M,), of the whole global batch, so that
    the choice does not depend on how it is split (Microsoft's code chooses within the batch of one GPU).
    """
    num_kept = int(len(losses) * (1 - drop_ratio))
    order = losses.detach().argsort(stable=True)
    return torch.zeros_like(losses).index_fill_(0, order[:num_kept], 1.0)


def _xlogx(x: float) -> float:
    return x * math.log(x) if x > 0 else 0.0
