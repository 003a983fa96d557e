"""Verification reads only the encoder and finds a tensor that differs. CPU, seconds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import VqaHead
from pretrain.checkpoints.weights import ENCODER
from pretrain.conversion.beit3_target import Beit3Target
from pretrain.conversion.timm_target import TimmTarget
from pretrain.conversion.verify import TOLERANCE, largest_difference, outputs, random_inputs
from tests.support.sources import source_of
from tests.support.tiny import CONFIG, tiny_model, tiny_task_network


def test_a_run_without_the_heads_of_pretraining_is_verified(tmp_path: Path) -> None:
    model = tiny_model()
    target = TimmTarget(None)
    encoder_alone = [(name, tensor) for name, tensor in model.state_dict().items() if name.startswith(ENCODER)]
    source = source_of(model.encoder.config, encoder_alone)
    target.write(source, tmp_path)
    path = tmp_path / target.weights_name
    assert largest_difference(target, source, path) <= TOLERANCE
    tensors = load_file(path)
    tensors["norm.weight"] = torch.full_like(tensors["norm.weight"], 2.0)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model.safetensors does not hold the norm.weight of its source"):
        largest_difference(target, source, path)


def test_logits_of_any_scale_are_compared_by_their_scale(tmp_path: Path) -> None:
    """Those of a trained head may be large; their rounding then is too, and a wrong head is found all the same."""
    network = tiny_task_network(VqaHead(7))
    with torch.no_grad():
        network.state_dict()["head.3.weight"].mul_(1e4)
    source = source_of(CONFIG, network.state_dict().items(), heads=VqaHead(7))
    source = replace(source, weights=lambda: iter(network.state_dict().items()))
    target = Beit3Target.fitting(None, VqaHead(7))
    target.write(source, tmp_path)
    path = tmp_path / target.weights_name
    assert largest_difference(target, source, path) <= TOLERANCE
    expected = outputs(network, random_inputs(CONFIG, "pair", is_masked=True))[0]
    assert expected.abs().max() > 1e3
    found = [expected * 1.001]
    target.encoder = lambda source, path: lambda inputs: found  # type: ignore[method-assign]
    assert largest_difference(target, source, path) > TOLERANCE
