"""Losses of tasks against those of Microsoft's code, written from it. CPU, seconds."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from model.task_losses import class_losses, smoothed_word_losses, vqa_losses, without_worst


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def their_caption_loss(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """BertCaptioningLoss of unilm/beit3 utils.py, before the worst are dropped."""
    num_words = logits.size(1)
    hot = torch.zeros_like(logits).scatter(1, target.view(-1, 1), 1)
    hot = hot * (1 - smoothing) + (1 - hot) * smoothing / (num_words - 1)
    return nn.KLDivLoss(reduction="none")(nn.LogSoftmax(dim=1)(logits), hot).sum(1)


def test_the_loss_of_answers_is_the_mean_times_the_number_of_answers() -> None:
    logits, scores = random(6, 11), random(6, 11, seed=1).sigmoid()
    theirs = nn.BCEWithLogitsLoss(reduction="mean")(logits, scores) * scores.shape[1]
    torch.testing.assert_close(vqa_losses(logits, scores).mean(), theirs)
    assert vqa_losses(logits.bfloat16(), scores).dtype == torch.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_classes_is_timms_with_label_smoothing(smoothing: float) -> None:
    logits, labels = random(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    log_probs = logits.log_softmax(1)
    nll = -log_probs.gather(1, labels[:, None])[:, 0]
    theirs = (1 - smoothing) * nll + smoothing * -log_probs.mean(1)  # timm.loss.LabelSmoothingCrossEntropy
    torch.testing.assert_close(class_losses(logits, labels, smoothing), theirs)


def test_soft_targets_are_those_of_mixup() -> None:
    logits, labels = random(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    soft = 0.7 * one_hot(labels, 5) + 0.3 * one_hot(labels.flip(0), 5)
    theirs = torch.sum(-soft * logits.log_softmax(1), dim=1)  # timm.loss.SoftTargetCrossEntropy
    torch.testing.assert_close(class_losses(logits, soft), theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_of_words_is_their_divergence_without_the_logits_of_all_words(smoothing: float) -> None:
    logits, labels = 3 * random(8, 40), torch.arange(8) * 5
    label_logits = logits.gather(1, labels[:, None])[:, 0]
    found = smoothed_word_losses(logits.logsumexp(1) - label_logits, label_logits, logits.mean(1), 40, smoothing)
    torch.testing.assert_close(found, their_caption_loss(logits, labels, smoothing))


def test_a_certain_and_right_prediction_of_a_smoothed_word_is_not_the_best() -> None:
    """The divergence is zero at the smoothed label itself, and more on both sides of it."""
    smoothing, num_words = 0.1, 20
    best = torch.full((1, num_words), smoothing / (num_words - 1)).log()
    best[0, 0] = math.log(1 - smoothing)
    for shift, is_zero in ((-2.0, False), (0.0, True), (2.0, False)):
        logits = best.clone()
        logits[0, 0] += shift
        label = logits[:, 0]
        found = smoothed_word_losses(logits.logsumexp(1) - label, label, logits.mean(1), num_words, smoothing)
        assert (abs(float(found)) < 1e-5) == is_zero


@pytest.mark.parametrize(("num_losses", "ratio"), [(10, 0.2), (7, 0.2), (3, 0.5), (4, 0.0), (1, 0.2), (0, 0.2)])
def test_the_losses_that_count_are_those_of_their_topk(num_losses: int, ratio: float) -> None:
    losses = random(num_losses).abs()
    theirs, _ = torch.topk(losses, k=int(num_losses * (1 - ratio)), largest=False)
    weights = without_worst(losses, ratio)
    torch.testing.assert_close((weights * losses).sum(), theirs.sum())
    assert int(weights.sum()) == len(theirs) and set(weights.tolist()) <= {0.0, 1.0}


def test_of_equal_losses_the_first_count() -> None:
    assert without_worst(torch.tensor([2.0, 1.0, 2.0, 2.0, 2.0]), 0.4).tolist() == [1, 1, 1, 0, 0]
