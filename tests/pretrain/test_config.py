"""What of a config may change when a run is continued."""

from dataclasses import replace
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.recipes.small import demo
from pretrain.run_config import changed_fields, config_from_json, config_to_json


def test_paths_and_the_cache_may_change_and_what_defines_the_batches_may_not() -> None:
    config = demo()
    moved = replace(config.data, pairs=("elsewhere",), cache_folder=Path("/scratch"), cache_bytes=1, num_workers=7)
    assert changed_fields(config, replace(config, data=moved)) == []
    other = replace(config, data=replace(config.data, num_lanes=2), seed=5)
    assert changed_fields(config, other) == ["data.num_lanes: 4 -> 2", "seed: 0 -> 5"]


def test_a_config_survives_being_written() -> None:
    assert config_from_json(PretrainConfig, config_to_json(demo())) == demo()


def test_a_saved_config_holds_no_password_and_no_signature() -> None:
    sources = ("https://user:hunter2@host/x=2", "https://host/x?X-Amz-Signature=hunter2", "s3://key:hunter2@bucket/x")
    config = replace(demo(), data=replace(demo().data, images=sources, pairs=sources, texts=sources))
    saved = config_to_json(config)
    assert "hunter2" not in saved and saved.count("https://***@host/x=2") == 3
    assert changed_fields(config_from_json(PretrainConfig, saved), config) == []
