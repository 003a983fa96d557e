"""Demands of recipes, compared with a run's files. CPU, seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from model.parameter_counts import count_by_part
from pretrain.config.command_line import parse_recipe
from pretrain.diagnosis import demands
from pretrain.diagnosis.demands import checkpoint_bytes, count_parameters, demands_of, num_checkpoints
from pretrain.recipes import CONTRAST_RECIPES, RECIPES, VISUAL_TOKENIZER_RECIPES
from tests.support.tiny_run import TinyData


def test_the_size_of_a_checkpoint_is_that_of_its_files(tiny_data: TinyData, two_ranks: Path) -> None:
    config = parse_recipe(RECIPES, "pretrain.train", ["demo", *tiny_data.overrides(two_ranks)])
    (folder,) = (two_ranks / "checkpoints").iterdir()
    states = sum(path.stat().st_size for path in folder.glob("*.pt"))
    assert checkpoint_bytes(config) == pytest.approx(states, rel=0.1)


def test_a_checkpoint_of_zero1_holds_the_weights_as_well() -> None:
    base = RECIPES["beit3_base"]()
    num_parameters = sum(count_by_part(base.model).values())
    assert count_parameters(base) == num_parameters
    assert checkpoint_bytes(replace(base, deepspeed_config=Path("ds_configs/zero3.json"))) == 12 * num_parameters
    assert checkpoint_bytes(replace(base, deepspeed_config=Path("ds_configs/zero1.json"))) == 14 * num_parameters
    averaged = replace(base, optimizer=replace(base.optimizer, ema_decay=0.9999))
    assert checkpoint_bytes(averaged) == checkpoint_bytes(base) + 4 * num_parameters


def test_checkpoints_on_disk_are_those_that_are_kept_and_one_under_way() -> None:
    laptop = RECIPES["laptop"]()
    assert num_checkpoints(laptop) == 4
    assert num_checkpoints(replace(laptop, num_steps=400)) == 2
    assert num_checkpoints(replace(laptop, keep_every_steps=1000)) == 6


def test_demands_grow_with_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "num_gpus", lambda: 0)
    base = RECIPES["beit3_base"]()
    one, node, many = (demands_of(base, "beit3_base", ranks) for ranks in (1, None, 64))
    assert (one.ranks_here, node.ranks, node.ranks_here, many.ranks_here) == (1, 8, 8, 8)
    assert one.memory < node.memory and one.disk == node.disk == node.num_checkpoints * node.checkpoint
    assert one.shared == node.shared > many.shared > 0
    assert node.open_files > demands.Demands().open_files


def test_a_visual_tokenizer_has_demands_too() -> None:
    assert demands_of(VISUAL_TOKENIZER_RECIPES["demo"](), "demo").checkpoint > 1_000_000


def test_a_dual_encoder_has_its_own_parameters_and_the_images_of_its_network_alone() -> None:
    large = CONTRAST_RECIPES["contrast_large"]()
    assert count_parameters(large) == sum(count_by_part(large.model, large.heads).values())
    assert count_parameters(large) < count_parameters(RECIPES["beit3_large"]())  # it has no table of visual tokens
    finer = replace(large, model=replace(large.model, patch_size=14))
    assert demands.image_side(finer) == 224
    masked = replace(finer, masked_data_weight=1.0, visual_tokenizer=Path("vqkd.pth"))
    assert demands.image_side(masked) == 256  # the visual tokenizer's view


def test_gpus_that_cuda_does_not_see_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(demands, "GPUS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert demands.num_gpus() == 4
    for value, count in (("", 0), ("-1", 0), ("0,2", 2), ("0,1,2,3,4,5", 4)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert demands.num_gpus() == count
