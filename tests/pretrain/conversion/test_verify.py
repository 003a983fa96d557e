"""Verification reads only the encoder and finds a tensor that differs. CPU, seconds."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.checkpoints.weights import ENCODER
from pretrain.conversion.timm_target import TimmTarget
from pretrain.conversion.verify import TOLERANCE, largest_difference
from tests.support.sources import source_of
from tests.support.tiny import tiny_model


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
