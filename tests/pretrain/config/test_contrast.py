"""Settings of contrastive runs. CPU, seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import DualHeads
from pretrain.config.contrast import ContrastConfig
from pretrain.config.run_config import config_from_json, config_to_json
from pretrain.recipes.contrast import contrast_demo
from pretrain.recipes.small import demo

VISUAL_TOKENIZER = Path("visual_tokenizer.pt")


def masked(**changes: Any) -> ContrastConfig:
    objective = demo().objective
    return replace(
        contrast_demo(), masked_data_weight=0.5, visual_tokenizer=VISUAL_TOKENIZER, objective=objective, **changes
    )


def test_the_heads_follow_from_loss_and_weight() -> None:
    assert contrast_demo().heads == DualHeads()
    assert replace(contrast_demo(), loss="sigmoid").heads == DualHeads(logit_bias=True)
    assert masked().heads == DualHeads(masked_data=True)


def test_masked_data_modeling_is_a_pretraining_of_the_same_samples() -> None:
    assert contrast_demo().masked_data is None
    config = masked(images_per_step=4, texts_per_step=8)
    beside = config.masked_data
    assert beside is not None and beside.samples_per_step == config.samples_per_step
    assert (beside.seed, beside.model, beside.objective) == (config.seed, config.model, config.objective)
    assert beside.visual_tokenizer == VISUAL_TOKENIZER
    assert config.resolved().objective == beside.resolved().objective
    assert config_from_json(ContrastConfig, config_to_json(config)) == config.resolved()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pairs_per_step": 1}, "pairs_per_step"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"layer_decay": 1.1}, "layer_decay"),
        ({"head_lr_factor": 0.0}, "head_lr_factor"),
        ({"masked_data_weight": -1.0}, "masked_data_weight"),
        ({"masked_data_weight": 1.0}, "needs the visual_tokenizer of pretraining; give it"),
        ({"images_per_step": 4}, "images_per_step 4 is for masked data modeling, which masked_data_weight 0 leaves"),
        ({"texts_per_step": 4}, "texts_per_step 4 is for masked data modeling"),
        ({"data": replace(contrast_demo().data, text_tokenizer=None)}, "data.text_tokenizer is needed"),
        ({"data": replace(contrast_demo().data, caption_length=33)}, "max_text_length 32 is below data.caption_length"),
    ],
)
def test_settings_that_no_run_can_work_with_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(contrast_demo(), **changes)


def test_the_settings_of_masked_data_modeling_are_checked_as_those_of_pretraining() -> None:
    with pytest.raises(ValueError, match="num_masked_patches 37 exceeds the 36 patches"):
        replace(masked(), objective=replace(demo().objective, num_masked_patches=37))


def test_random_weights_and_masks_that_teach_little_are_warned_of() -> None:
    assert contrast_demo().warnings() == [] == masked().warnings()
    (warning,) = replace(contrast_demo(), initial_weights=None).warnings()
    assert "starts from random weights" in warning and "--initial-weights SOURCE" in warning
    papers = replace(masked(), objective=replace(demo().objective, whole_image_share=0.0))
    assert ["whole_image_share is 0" in warning for warning in papers.warnings()] == [True]
