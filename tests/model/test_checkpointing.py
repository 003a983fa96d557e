"""Activation checkpointing keeps less and changes no gradient. CPU, seconds; under ZeRO-3: tests/golden."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import KEEP_EVERYTHING, Checkpointing
from model.kernels.expert_linear import PRODUCTS_NAME
from model.masked_data_model import MaskedDataModel
from model.stochastic_depth import drop_path_scales
from tests.benchmarks.bytes_moved import saved_bytes
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model, tiny_targets

MODES = [Checkpointing("selective"), Checkpointing("full"), Checkpointing("selective", 2), Checkpointing("full", 2)]


class ProductCounter(TorchDispatchMode):
    """Counts the matrix products of experts."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += len(args[1]) if func.name() == PRODUCTS_NAME else 0
        return func(*args, **(kwargs or {}))


def losses(model: MaskedDataModel) -> torch.Tensor:
    inputs = tiny_inputs(2, 3, 4)
    sums: torch.Tensor = model(inputs, tiny_targets(inputs), drop_path_scales(1, torch.arange(9), CONFIG.depth, 0.3))
    return sums


@pytest.mark.parametrize("checkpointing", MODES, ids=str)
def test_no_mode_changes_a_bit_of_a_gradient(checkpointing: Checkpointing) -> None:
    both = []
    for choice in (KEEP_EVERYTHING, checkpointing):
        model = tiny_model(checkpointing=choice).train()
        losses(model).sum().backward()
        both.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    expected, found = both
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert len(found) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("checkpointing", "again"),
    [
        (KEEP_EVERYTHING, 0),
        (Checkpointing("selective"), 0),
        (Checkpointing("full"), 4 + 4 + 5),  # qkv, proj and fc1 of each expert; the result of fc2 is not needed
        (Checkpointing("full", 2), 4 + 5),  # of three blocks the first and the third
    ],
    ids=str,
)
def test_backward_recomputes_the_expected_number_of_products(checkpointing: Checkpointing, again: int) -> None:
    total = losses(tiny_model(checkpointing=checkpointing).train()).sum()
    with ProductCounter() as counter:
        total.backward()
    assert counter.count == again


def test_each_mode_keeps_less() -> None:
    def kept(checkpointing: Checkpointing) -> int:
        model = tiny_model(checkpointing=checkpointing).train()
        return saved_bytes(lambda *_: [losses(model)], list(model.parameters()))

    everything, every_second, full = (
        kept(c) for c in (KEEP_EVERYTHING, Checkpointing("full", 2), Checkpointing("full"))
    )
    assert full < every_second < everything
