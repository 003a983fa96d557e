"""The cost of evaluation on paper, against forwards counted by hand. CPU, milliseconds."""

import re
from dataclasses import replace

import pytest

from model.flops import forward_flops, training_flops
from pretrain.planning.evaluation_cost import evaluation_note, evaluation_share
from pretrain.planning.kinds import kind_of
from pretrain.recipes import RECIPES


def test_the_share_is_that_of_the_forwards() -> None:
    config = RECIPES["beit3_base"]()
    evaluated = kind_of(config).with_held_out_data(config).evaluation
    settings = replace(evaluated, parts=("probe",), num_labelled=100, chunk_size=10, every_steps=50)
    image, step = forward_flops(config.model, "image", 0), training_flops(config.model, config.largest_step)
    config = replace(config, evaluation=settings)
    assert evaluation_share(config) == pytest.approx(100 * image / (50 * step))
    # ten chunks on four ranks take three rounds, as long as twelve chunks
    assert evaluation_share(config, 4) == pytest.approx(120 * image / (50 * step))
    assert evaluation_share(replace(config, evaluation=replace(settings, every_steps=0))) == 0


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_spends_at_most_one_percent(name: str) -> None:
    config = RECIPES[name]()
    config = config if config.is_evaluated else kind_of(config).with_held_out_data(config)
    num_ranks = 2 if name.startswith(("demo", "laptop")) else 128
    # the demo is there to be watched for three minutes
    assert 0 < evaluation_share(config, num_ranks) < (0.12 if name == "demo" else 0.01)


def test_the_note_says_what_is_assumed() -> None:
    assert re.fullmatch(
        r"evaluation, counted: 0\.\d\d% of the operations of 500 steps on 2 ranks\.",
        evaluation_note(RECIPES["laptop"](), 2),
    )
    said = evaluation_note(RECIPES["beit3_giant"](), 128)
    assert said.startswith(
        "evaluation, counted: no held-out data is set; with images, pairs, texts and labelled images it would take 0."
    )
