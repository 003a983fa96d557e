"""Configs of runs: written, read, divided among ranks. CPU, seconds."""

import json
from dataclasses import replace

import pytest

from data_pipeline.loading.config import SamplesPerStep
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import changed_fields, config_from_json, config_to_json
from pretrain.recipes.small import demo


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("num_steps", -1, "num_steps -1: Input should be greater than or equal to 1"),
        ("optimizer", {"beta1": 2}, "optimizer.beta1 2: Input should be less than 1"),
        ("model", {"dim": 100, "num_heads": 6}, "num_heads 6 must divide dim 100"),
        ("precision", "float8", "precision 'float8': Input should be 'float32' or 'bfloat16'"),
        ("data", None, "data None: Input should be"),
    ],
)
def test_a_damaged_config_is_reported_in_one_sentence(field: str, value: object, expected: str) -> None:
    saved = {**json.loads(config_to_json(demo())), field: value}
    with pytest.raises(ValueError) as refused:
        config_from_json(PretrainConfig, json.dumps(saved))
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_a_config_survives_being_written() -> None:
    assert config_from_json(PretrainConfig, config_to_json(demo())) == demo().resolved()


def test_a_saved_config_holds_no_password_and_no_signature() -> None:
    sources = ("https://user:hunter2@host/x=2", "https://host/x?X-Amz-Signature=hunter2", "s3://key:hunter2@bucket/x")
    config = replace(demo(), data=replace(demo().data, images=sources, pairs=sources, texts=sources))
    saved = config_to_json(config)
    assert "hunter2" not in saved and saved.count("https://***@host/x=2") == 3
    assert changed_fields(config_from_json(PretrainConfig, saved), config) == []


def test_the_global_batch_is_divided_among_ranks_and_micro_steps() -> None:
    config = replace(demo(), images_per_step=12, pairs_per_step=24, texts_per_step=0, gradient_accumulation_steps=2)
    assert config.micro_batch(world_size=3) == SamplesPerStep(2, 4, 0)
    for world_size, ranks in ((1, "1 rank"), (5, "5 ranks")):
        other = replace(config, images_per_step=11)
        message = (
            f"images_per_step 11 must be a multiple of {ranks} x gradient_accumulation_steps 2; change one of them"
        )
        with pytest.raises(ValueError, match=message):
            other.micro_batch(world_size)
