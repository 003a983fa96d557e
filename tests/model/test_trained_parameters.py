"""Which parameters a task trains: exactly those with a gradient. CPU, seconds."""

from typing import Any

import pytest
import torch

from model.config import CaptionHead, ClassHead, MultiwayConfig, TaskHead
from model.task_networks import build_task_network
from model.trained_parameters import is_trained
from tests.support.tiny import TINY_HEADS, tiny_caption_targets, tiny_task_inputs, tiny_task_network

VARIANTS: list[dict[str, Any]] = [
    {"num_vl_layers": 0},
    {"num_vl_layers": 2},
    {"attention": "decoupled", "num_vl_layers": 0},
    {"attention": "decoupled", "num_vl_layers": 1},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_every_parameter_has_a_gradient_and_that_of_the_others_is_zero(
    heads: TaskHead, changes: dict[str, Any]
) -> None:
    network, inputs = tiny_task_network(heads, **changes), tiny_task_inputs(heads)
    is_captioner = isinstance(heads, CaptionHead)
    outputs = network(inputs, None, tiny_caption_targets(inputs), 0.1) if is_captioner else network(inputs)
    (outputs * torch.linspace(0.5, 2, outputs.numel()).view(outputs.shape)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == is_trained(name, network.encoder.config, heads), name


def test_the_trained_part_of_a_classifier_has_the_published_size() -> None:
    """87M in Microsoft's README: the vision branch with its embeddings and positions, and 1,000 classes."""
    config = MultiwayConfig(attention="decoupled")
    with torch.device("meta"):
        state = build_task_network(config, ClassHead()).state_dict()
    count = sum(tensor.numel() for name, tensor in state.items() if is_trained(name, config, ClassHead()))
    assert count == 86_661_352
