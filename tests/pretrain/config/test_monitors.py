"""Settings of monitors may change when a run is resumed: they touch nothing that is computed. CPU, no time at all."""

import json
from dataclasses import replace

import pytest

from pretrain.config.monitors import MonitorConfig
from pretrain.config.run_config import changed_fields, config_from_json, config_to_json, settings_of
from pretrain.recipes.small import demo


def test_a_resumed_run_may_have_other_monitors() -> None:
    config = demo()
    other = replace(config, monitors=MonitorConfig("off", csv=True, wandb="beit3", norms_every_steps=7))
    assert changed_fields(config, other) == []
    assert config_from_json(type(config), config_to_json(other)).monitors == other.monitors


def test_a_config_from_before_there_were_monitors_has_the_default() -> None:

    content = json.loads(config_to_json(demo()))
    del content["monitors"]
    assert config_from_json(type(demo()), json.dumps(content)).monitors == MonitorConfig()


def test_settings_are_shown_by_dotted_names() -> None:
    shown = settings_of(demo())
    assert shown["monitors.norms_every_steps"] == 50 and shown["data.images"] == ["runs/demo/data/images"]


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="norms_every_steps -1 must be an integer from 0 to"):
        MonitorConfig(norms_every_steps=-1)
