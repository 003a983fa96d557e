"""Heads of tasks against their formulas. CPU, seconds."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear

from model.task_heads import Pooler, TruthHead, WordHead, answer_head
from tests.model.test_task_losses import random, their_caption_loss

DIM = 16
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def randomized(module: ModuleT) -> ModuleT:
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed) / 3)
    return module


def normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], norm.weight, norm.bias, eps=1e-5)


def test_answers_come_from_the_pooled_class_token() -> None:
    pooler, head, tokens = randomized(Pooler(DIM)), randomized(answer_head(DIM, 9)), random(4, DIM)
    pooled = torch.tanh(linear(normed(tokens, pooler.norm), pooler.dense.weight, pooler.dense.bias))
    torch.testing.assert_close(pooler(tokens), pooled)
    first, norm, _, last = head
    assert isinstance(first, nn.Linear) and isinstance(norm, nn.LayerNorm) and isinstance(last, nn.Linear)
    hidden = gelu(normed(linear(pooled, first.weight, first.bias), norm))
    torch.testing.assert_close(head(pooled), linear(hidden, last.weight, last.bias))
    assert (first.out_features, last.out_features) == (2 * DIM, 9)


def test_truth_comes_from_both_pairs() -> None:
    head, pairs = randomized(TruthHead(DIM)), random(3, 4 * DIM)
    hidden = linear(normed(pairs, head.norm1), head.dense1.weight, head.dense1.bias)
    expected = linear(gelu(normed(hidden, head.norm2)), head.dense2.weight, head.dense2.bias)
    torch.testing.assert_close(head(pairs), expected)
    assert expected.shape == (3, 2) and hidden.shape == (3, 2 * DIM)


def test_losses_of_words_and_their_gradients_are_microsofts() -> None:
    head, labels = randomized(WordHead(DIM, 40)), torch.arange(8) * 5
    gradients = []
    for smoothing in (0.0, 0.1):
        for is_ours in (True, False):
            hidden = random(8, DIM, seed=9).requires_grad_()
            if is_ours:
                losses = head(hidden, labels, smoothing=smoothing)
            else:
                losses = their_caption_loss(linear(hidden, head.weight, head.bias), labels, smoothing)
            weights = torch.linspace(0.5, 2, 8)  # as if some words were dropped and others counted more
            found = torch.autograd.grad((weights * losses).sum(), (hidden, head.weight, head.bias))
            gradients.append((losses.detach(), *found))
        for our, their in zip(*gradients[-2:], strict=True):
            torch.testing.assert_close(our, their, atol=2e-5, rtol=1e-4)


def test_guesses_are_not_smoothed() -> None:
    head, hidden, labels = randomized(WordHead(DIM, 40)), random(8, DIM), torch.arange(8) * 5
    found = head(hidden, labels, "reference", True, 0.1)
    logits = linear(hidden, head.weight, head.bias)
    torch.testing.assert_close(found[:, 0], nn.CrossEntropyLoss(reduction="none")(logits, labels))
    assert torch.equal(found[:, 1].bool(), logits.argmax(1) == labels)
