"""Weights of a checkpoint in a model on any topology; whole resumes are tested in tests/runs. CPU, seconds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.masked_data_model import MaskedDataModel
from model.stacked_vectors import stacked_rows
from pretrain.checkpoints.elastic import _restacked as restacked
from pretrain.checkpoints.elastic import is_of_another_layout, load_weights_into
from pretrain.checkpoints.partitions import model_file, saved_parameters, saved_shapes
from pretrain.checkpoints.reader import Checkpoint
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine.optimizer import MOMENTS
from pretrain.engine.weight_average import AVERAGE
from tests.support.crafted import copy_of_run
from tests.support.mistakes import only_rank
from tests.support.separate_vectors import separate_vectors


@pytest.fixture(scope="module")
def checkpoint(two_ranks: Path) -> Checkpoint[PretrainConfig]:
    return find_checkpoint(two_ranks, PretrainConfig)


def test_a_model_gets_every_weight(checkpoint: Checkpoint[PretrainConfig]) -> None:
    model = MaskedDataModel(checkpoint.config.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    load_weights_into(model, checkpoint.folder)
    expected = load_model(checkpoint).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda model: {"ffn_dim": 2 * model.ffn_dim}, "has another encoder.* than the network of the run"),
        (
            lambda model: {"depth": model.depth - 1},
            "has another encoder.* than the network of the run; give a new run_",
        ),
        (
            lambda model: {"num_vl_layers": model.num_vl_layers + 1},
            "has another encoder.blocks.*.vectors than the network of the run; give a new run_",
        ),
        (
            lambda model: {"depth": model.depth + 1, "num_vl_layers": model.num_vl_layers + 1},
            "lacks encoder.blocks.*; give a new run_dir",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    changes: Callable[[Any], dict[str, Any]], message: str, checkpoint: Checkpoint[PretrainConfig]
) -> None:
    config = checkpoint.config.model
    with pytest.raises(ValueError, match=message):
        load_weights_into(MaskedDataModel(replace(config, **changes(config))), checkpoint.folder)


def test_another_number_of_ranks_or_any_other_setting_is_another_layout(checkpoint: Checkpoint[PretrainConfig]) -> None:
    alone, settings = replace(checkpoint, world_size=1), checkpoint.memory_config
    model = MaskedDataModel(checkpoint.config.model)
    with only_rank():
        assert not is_of_another_layout(alone, settings, model)
        assert is_of_another_layout(checkpoint, settings, model)
        assert is_of_another_layout(alone, {**settings, "communication_data_type": "fp32"}, model)


def test_parameters_of_other_names_or_in_another_order_are_another_layout(
    checkpoint: Checkpoint[PretrainConfig], tmp_path: Path
) -> None:
    copied = copy_of_run(checkpoint.folder.parents[1], tmp_path / "run")
    alone, model = replace(checkpoint, world_size=1, folder=copied), MaskedDataModel(checkpoint.config.model)
    path = copied / model_file(3, 0)
    decayed, undecayed = saved_shapes(copied)
    (name, shape), *others = undecayed.items()

    def is_another(*groups: dict[str, torch.Size]) -> bool:
        torch.save({"param_shapes": list(groups)}, path)
        with only_rank():
            return is_of_another_layout(alone, checkpoint.memory_config, model)

    assert not is_another(decayed, undecayed)
    assert is_another(decayed, {**dict(others), name: shape})  # in another order
    assert is_another(decayed, dict(others))
    assert is_another(decayed, {**undecayed, "other": shape})
    torch.save({}, path)
    with pytest.raises(ValueError, match="does not hold what DeepSpeed saves"), only_rank():
        is_of_another_layout(alone, checkpoint.memory_config, model)


def test_a_checkpoint_with_a_parameter_per_vector_gives_the_same_weights_and_moments(
    checkpoint: Checkpoint[PretrainConfig], tmp_path: Path
) -> None:
    folder = copy_of_run(checkpoint.folder.parents[1], tmp_path / "run")
    separate_vectors(folder)
    older, model = find_checkpoint(folder, PretrainConfig), MaskedDataModel(checkpoint.config.model)
    with only_rank():
        assert is_of_another_layout(replace(older, world_size=1), older.memory_config, model)
    load_weights_into(model, folder)
    assert_same(dict(model.state_dict()), dict(load_model(checkpoint).state_dict()))
    assert_same(dict(load_model(older).state_dict()), dict(model.state_dict()))
    rows = stacked_rows(model)
    kinds = (*MOMENTS, AVERAGE)
    found, expected = (dict(restacked(saved_parameters(f, rows, kinds), rows)) for f in (folder, checkpoint.folder))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(moment.any() for moment in found["encoder.blocks.0.vectors"])
    assert_same(found, expected)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
