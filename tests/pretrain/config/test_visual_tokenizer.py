"""Settings of a visual tokenizer's training."""

from dataclasses import replace

import pytest

from pretrain.config.visual_tokenizer import CodebookConfig, TeacherConfig
from pretrain.recipes.small import demo_visual_tokenizer


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decay 1.0 must be a number in \[0, 1\)"):
        CodebookConfig(decay=1.0)
    with pytest.raises(ValueError, match="image_size 0 must be an integer from 1 to 8,192 or None"):
        TeacherConfig(image_size=0)
    with pytest.raises(ValueError, match="images_per_step 0 must be an integer from 1"):
        replace(demo_visual_tokenizer(), images_per_step=0)


def test_a_step_holds_images_only() -> None:
    assert str(demo_visual_tokenizer().samples_per_step) == "32 images"
