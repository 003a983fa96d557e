"""Memory of the contrastive loss is linear in the global batch, by allocations and not by time. CPU, a second."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from model.contrastive_loss import CHUNK_LOGITS
from pretrain.jobs.global_contrast import global_contrast
from pretrain.planning.contrast_kind import contrast_of_a_rank
from pretrain.planning.live_memory import LiveMemory, tensors_in
from tests.support.contrast_plans import small_contrast
from tests.support.mistakes import only_rank_without_threads

DIM = 16
SIZES = (256, 512, 1024)


class Allocations(LiveMemory):
    """Counts the bytes that are alive, and the elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = super().__torch_dispatch__(func, types, args, kwargs)
        self.largest = max([self.largest, *(tensor.numel() for tensor in tensors_in(outputs))])
        return outputs


@pytest.mark.parametrize("bias", [None, torch.tensor(-10.0)], ids=["softmax", "sigmoid"])
def test_doubling_the_batch_at_most_doubles_the_peak_and_the_logits_are_never_whole(bias: torch.Tensor | None) -> None:
    peaks = []
    for size in SIZES:
        images, texts = (normalize(torch.randn(size, DIM), dim=-1) for _ in range(2))
        with only_rank_without_threads(), Allocations() as allocated:
            global_contrast(images, texts, torch.tensor(math.log(10)), bias, chunk_logits=2048)
        peaks.append(allocated.peak)
        assert allocated.largest <= 2 * size * DIM < size**2 / 4  # the features of all ranks
    assert peaks[1] <= 2 * peaks[0] and peaks[2] <= 2 * peaks[1]
    assert peaks[2] - peaks[1] == pytest.approx(2 * (peaks[1] - peaks[0]), rel=0.05)  # a line


def test_logits_at_once_do_not_grow_with_the_batch_of_a_run() -> None:
    peaks = []
    for size in (16_384, 32_768, 65_536):
        with Allocations() as allocated:
            contrast_of_a_rank(small_contrast(pairs_per_step=size), size // 8)
        assert allocated.largest <= max(CHUNK_LOGITS, 2 * size * small_contrast().model.dim)
        peaks.append(allocated.peak)
    assert peaks[1] <= 2 * peaks[0] and peaks[2] <= 2 * peaks[1]
