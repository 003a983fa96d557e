"""The contrastive loss of the global batch on one rank; on several: test_contrast.py. CPU, seconds."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from pretrain.jobs import global_contrast as module
from pretrain.jobs.global_contrast import global_contrast


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr(module, "gathered_from_ranks", lambda values: values)
    monkeypatch.setattr(module, "summed_over_ranks", lambda values: values)


def features(seed: int) -> Tensor:
    return normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("bias", [None, -1.0])
@pytest.mark.parametrize("chunk", [30, 1 << 20])
@pytest.mark.parametrize("num_texts", [12, 5])
def test_loss_gradients_and_accuracy_are_those_of_the_whole_matrix(
    bias: float | None, chunk: int, num_texts: int, one_rank: None
) -> None:
    """num_texts: how many of the twelve texts differ; equal ones are ignored."""
    images, texts = features(0).requires_grad_(), (features(0) + 0.4 * features(1)).detach().requires_grad_()
    logit_scale = torch.tensor(1.2, requires_grad=True)
    logit_bias = None if bias is None else torch.tensor(bias, requires_grad=True)
    logits, right = logit_scale.exp() * images @ texts.T, torch.arange(12)
    numbers = right % num_texts
    is_ignored = (numbers[:, None] == numbers) & ~torch.eye(12, dtype=torch.bool)
    assert is_ignored.any() == (num_texts < 12)
    logits = logits.masked_fill(is_ignored, -torch.inf)
    if logit_bias is None:
        loss = (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
    else:
        loss = -logsigmoid((2 * torch.eye(12) - 1) * (logits + logit_bias)).sum() / 12
    loss.backward()
    found = global_contrast(
        images.detach(),
        texts.detach(),
        logit_scale.detach(),
        None if logit_bias is None else logit_bias.detach(),
        chunk,
        None if num_texts == 12 else numbers,
    )
    torch.testing.assert_close(found.loss, loss.detach())
    assert images.grad is not None and texts.grad is not None and logit_scale.grad is not None
    torch.testing.assert_close(found.image_gradient, images.grad)
    torch.testing.assert_close(found.text_gradient, texts.grad)
    torch.testing.assert_close((images.detach() * found.image_gradient).sum(), logit_scale.grad)
    expected_bias = torch.zeros(()) if logit_bias is None else logit_bias.grad
    torch.testing.assert_close(found.bias_gradient, expected_bias)
    shares = [(rows.argmax(1) == right).float().mean() for rows in (logits, logits.T)]
    assert found.accuracy.tolist() == pytest.approx([float(share) for share in shares])
    assert 0 < float(shares[0]) <= 1


@pytest.mark.parametrize("has_bias", [False, True])
def test_nothing_is_read_back(has_bias: bool, one_rank: None) -> None:
    """Run on the meta device, where every read of a value fails."""
    with torch.device("meta"):
        images, texts, number = torch.empty(12, 8), torch.empty(12, 8), torch.empty(())
    numbers = torch.empty(12, dtype=torch.int64, device="meta")
    found = global_contrast(images, texts, number, number if has_bias else None, 40, numbers)
    assert all(tensor.device.type == "meta" for tensor in found)
    assert found.image_gradient.shape == found.text_gradient.shape == (12, 8)
