"""Settings of the evaluation in a run. CPU, milliseconds."""

from dataclasses import replace

import pytest

from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.run_config import changed_fields, config_to_json
from pretrain.recipes.small import demo


def test_it_is_on_with_data_and_a_distance() -> None:
    assert not EvaluationConfig().is_on and EvaluationConfig(texts="texts").is_on
    assert not EvaluationConfig(texts="texts", every_steps=0).is_on
    with pytest.raises(ValueError, match="evaluation.parts is empty"):
        EvaluationConfig(parts=())


def test_the_best_needs_a_checkpoint_at_every_evaluation() -> None:
    config, best = demo(), replace(demo().evaluation, best="loss/total")
    with pytest.raises(ValueError, match="evaluation.every_steps 100 must be a multiple of save_every_steps 350"):
        replace(config, evaluation=best)
    replace(config, evaluation=best, save_every_steps=50)
    replace(config, evaluation=replace(best, every_steps=0))


def test_a_resumed_run_may_change_it_and_passwords_are_not_saved() -> None:
    config = replace(demo(), evaluation=EvaluationConfig(texts="s3://key:secret@host/texts"))
    assert changed_fields(demo(), config) == []
    assert "secret" not in config_to_json(config)
